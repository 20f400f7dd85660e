package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestFloorsMakeTunnels(t *testing.T) {
	upstreams := []string{startTestBackend(t), startTestBackend(t)}
	for _, name := range []string{bareHijackName, bareUpgradeName, bareRelayName} {
		t.Run(name, func(t *testing.T) {
			serve, err := floorServer(name, upstreams)
			if err != nil {
				t.Fatal(err)
			}
			listener := testListener(t)
			go func() { _ = serve(listener) }() // until the test closes it
			for range 3 {
				if err := tryEcho(t.Context(), target{addr: listener.Addr().String()}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestFloorWithAnotherNameIsAnError(t *testing.T) {
	if _, err := floorServer("cellar", nil); err == nil {
		t.Error("got none")
	}
}

// The package leaves the file out, as it needs the Caddy of the module above.
func TestFloorOfCaddyCompiles(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "vet", "bench/floor_caddy.go", "bench/floor_tunnel.go")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFloorsAreMeasuredWhereTheyAreWanted(t *testing.T) {
	for args, want := range map[string]bool{
		"":                              true,
		"-rows memory":                  false,
		"-rows memory|connect":          true,
		"-rows echo.*HTTP/2":            false,
		"-peers reverse_proxy":          false,
		"-peers bare":                   true,
		"-self":                         false,
		"-storm 100":                    false,
		"-growth 100":                   false,
		"-rows CPU -profiles somewhere": false,
	} {
		o, err := parseFlags(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		if got := o.wantsFloor(); got != want {
			t.Errorf("%q: got %t, want %t", args, got, want)
		}
	}
}

func TestRowsWithFloorsAreKnown(t *testing.T) {
	r := results{"memory": {ourName: {1}}, "connect": {ourName: {1}, bareCaddyName: {1}}, "echo": {bareRelayName: nil}}
	if got := r.of([]string{bareCaddyName, bareRelayName}); len(got) != 1 || !got["connect"] {
		t.Errorf("got %v, want connect alone", got)
	}
}
