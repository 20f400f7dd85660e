package websocketproxy

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// TestTheInstancesIDMayBeInTheMaking has a file of another writer that is not
// written yet, and then another id in it.
func TestTheInstancesIDMayBeInTheMaking(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := caddy.AppDataDir()
		write := func(id string) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "instance.uuid"), []byte(id), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("")
		go func() {
			time.Sleep(100 * time.Millisecond)
			write("11111111-1111-1111-1111-111111111111")
		}()
		st := newFakeStorage()
		a := runInstance(t, st)
		a.say("localhost:9000", upstream.Drain)
		write("22222222-2222-2222-2222-222222222222")
		time.Sleep(pickUp)
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		key := localKeyOf(anID("22222222-2222-2222-2222-222222222222"), host)
		if got := st.states(t, key)["localhost:9000"].State; got != upstream.Drain {
			t.Errorf("the final id has %q, want drain; stored are %v", got, st.keys())
		}
		a.expectLines(map[string]int{lineFails: 0})

		write("broken")
		time.Sleep(time.Minute)
		if got := a.table.stateOf("localhost:9000").State; got != upstream.Drain {
			t.Errorf("without an id, localhost is %q, want drain", got)
		}
		a.say(backend, upstream.Drain) // which needs none
		a.expectLines(map[string]int{lineFails: 1})
	})
}

// Machines that share Caddy's directory of data have one id.
func TestMachinesWithOneIDHaveLocalStatesOfTheirOwn(t *testing.T) {
	keys := make(map[string]bool)
	for _, id := range []anID{"one", "other"} {
		for _, host := range []string{"a", "b"} {
			keys[localKeyOf(id, host)] = true
		}
	}
	if len(keys) != 4 || !keys[localKeyOf(anID("one"), "a")] {
		t.Errorf("the keys are %v, want one for each instance on each host", keys)
	}
}

type anID string

func (id anID) String() string { return string(id) }
