package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"strings"
	"testing"
	"time"
)

func TestGoroutinesAreInTheFirstLine(t *testing.T) {
	tests := map[string]struct {
		line    string
		want    int
		wantErr bool
	}{
		"ordinary":     {line: "goroutine profile: total 4711\n", want: 4711},
		"another line": {line: "1 @ 0x4 0x5\n", wantErr: true},
		"no number":    {line: "goroutine profile: total many\n", wantErr: true},
		"empty":        {line: "", wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseGoroutines(tc.line)
			if (err != nil) != tc.wantErr {
				t.Fatalf("got error %v, want one: %t", err, tc.wantErr)
			}
			if got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestAdminEndpointIsAskedForProfiles(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.URL.RawQuery))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	a := admin(server.Listener.Addr().String())

	if got, err := a.goroutines(t.Context()); err != nil || got < 2 {
		t.Errorf("got %d goroutines, %v; want some", got, err)
	}
	if got, err := a.profile(t.Context(), 10*time.Second); err != nil || string(got) != "seconds=10" {
		t.Errorf("got profile %q, %v", got, err)
	}
}

func TestRefusalOfTheAdminEndpointIsAnError(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := admin(server.Listener.Addr().String()).goroutines(t.Context())
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got error %v, want one that names the status", err)
	}
}
