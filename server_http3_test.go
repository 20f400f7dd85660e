package websocketproxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// Also a request that is not for us has passed the handler.
func TestHandlerNotesItsHTTP3Server(t *testing.T) {
	p := newProxy(t, &Handler{Upstreams: upstreams("127.0.0.1:1")})
	live, server := withExit(t, p), new(http3.Server)
	for proto, want := range map[int]int{1: 0, 2: 0} {
		serveWithServer(t, p, proto, server)
		if got := live.HTTP3Servers(); got != want {
			t.Errorf("%d servers are known after a request over HTTP/%d, want %d", got, proto, want)
		}
	}
	for range 3 {
		serveWithServer(t, p, 3, server)
	}
	if got := live.HTTP3Servers(); got != 1 {
		t.Errorf("%d servers are known, want 1", got)
	}
	runtime.KeepAlive(server)
	eventually(t, "the server is forgotten", func() bool {
		runtime.GC()
		return live.HTTP3Servers() == 0
	})
}

func serveWithServer(t *testing.T, p *testProxy, proto int, server *http3.Server) {
	t.Helper()
	r := streamRequest(t, http.MethodGet, nil)
	r.ProtoMajor = proto
	r = r.WithContext(context.WithValue(r.Context(), http3.ServerContextKey, server))
	p.ServeHTTP(httptest.NewRecorder(), r)
}
