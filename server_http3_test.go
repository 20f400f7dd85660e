package websocketproxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
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

// Where a handler in front hides the stream, the tunnel ends with the handler, as over HTTP/2.
func TestHandlerServesHTTP3StreamsThatAreHidden(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	r := streamRequest(t, http.MethodConnect, nil)
	r.Header.Set(handshake.FieldVersion, "13")
	r.Proto, r.ProtoMajor = "websocket", 3
	body, client := io.Pipe()
	r.Body = body
	w := httptest.NewRecorder() // which is no stream
	returned := testbed.Go(t, func(testing.TB) { p.ServeHTTP(w, r) })
	u := up.Next(t)
	u.AcceptHandshake()
	hello := testbed.NewFrame(testbed.Text, "hello")
	if _, err := client.Write(hello.Bytes(true)); err != nil {
		t.Fatal(err)
	}
	u.ExpectFrame(testbed.Text, "hello")
	u.WriteFrame(hello)
	u.Close()
	returned()
	if got := w.Body.String(); got != string(hello.Bytes(false)) {
		t.Errorf("the client got %q, want a frame", got)
	}
}
