package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestOperatorsRequestsAreTimed(t *testing.T) {
	var got []string
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		w.WriteHeader(status)
	}))
	defer server.Close()
	s := subject{proxy: &proxy{admin: admin(server.Listener.Addr().String()), upstreams: []string{"a:1", "b:2"}}}

	values, err := s.operate(t.Context(), 9000)
	if err != nil || len(values) != 4 || slices.Min(values) <= 0 {
		t.Errorf("got %v, %v; want four times", values, err)
	}
	want := []string{
		`POST /websocket_proxy/upstreams/state {"address":"a:1","state":"drain"}`,
		`POST /websocket_proxy/upstreams/state {"address":"b:2","state":"drain"}`,
		"GET /websocket_proxy/upstreams ",
		"GET /websocket_proxy/tunnels?limit=9000 ",
		"GET /websocket_proxy/tunnels?limit=100 ",
	}
	if asked := slices.Compact(slices.Concat(got[:2], got[fleetAsks:])); !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}

	status = http.StatusNotFound
	if values, err := s.operate(t.Context(), 9000); values != nil || err != nil {
		t.Errorf("got %v, %v of a proxy without such requests", values, err)
	}
	status = http.StatusInternalServerError
	_, err = s.operate(t.Context(), 9000)
	if _, ok := errors.AsType[statusError](err); !ok {
		t.Errorf("got error %v, want one that names the status", err)
	}
}

func TestConfigurationIsReloadedThoughItIsTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("config"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/load" || r.Header.Get("Cache-Control") != "must-revalidate" || string(body) != "config" {
			t.Errorf("got %s with %v and %q", r.URL, r.Header, body)
		}
	}))
	defer server.Close()
	if err := admin(server.Listener.Addr().String()).reload(t.Context(), file); err != nil {
		t.Error(err)
	}
}
