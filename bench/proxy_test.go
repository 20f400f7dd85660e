package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFailureTellsHowTheProcessHasEnded(t *testing.T) {
	long := strings.Repeat("x", 3000)
	run, err := launch(peer{binary: "/bin/sh", args: []string{"-c", "echo early " + long + "; echo late; kill -9 $$"}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	<-run.ended
	run.stop()
	got := run.evidence(t.Context())
	if !strings.Contains(got, "killed") || !strings.HasSuffix(got, "late") || strings.Contains(got, "early") {
		t.Errorf("got %q, want the signal and the end of the output", got)
	}
}

func TestFailureTellsWhyTunnelsHaveEnded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "# TYPE caddy_websocket_proxy_tunnels_closed_total counter\n"+
			"caddy_websocket_proxy_tunnels_closed_total{handler=\"\",reason=\"idle\"} 7\n"+
			"caddy_websocket_proxy_tunnels{handler=\"\"} 9\n")
	}))
	defer server.Close()
	log, err := os.Create(filepath.Join(t.TempDir(), logFile))
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(log)
	running := &proxy{log: log, ended: make(chan struct{}), admin: admin(server.Listener.Addr().String())}
	want := "\n\tits tunnels have ended so: caddy_websocket_proxy_tunnels_closed_total{handler=\"\",reason=\"idle\"} 7"
	if got := running.evidence(t.Context()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	running.admin = ""
	if got := running.evidence(t.Context()); got != "" {
		t.Errorf("got %q of a proxy that tells nothing", got)
	}
}

func TestDeadTunnelsAreCounted(t *testing.T) {
	s := ownSubject(t, startTestBackend(t))
	clients, err := s.openTunnels(t.Context(), 120, echoPath, smallBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(clients)
	if err := checkAlive(clients); err != nil {
		t.Error(err)
	}
	closeQuietly(clients[50].conn)
	want := "1 of 3 tunnels are dead that were asked: tunnel 50: "
	if err := checkAlive(clients); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s…", err, want)
	}
}
