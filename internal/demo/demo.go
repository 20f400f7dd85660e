// Package demo is an upstream to try the proxy with: it echoes WebSocket
// messages and serves a page that sends some.
package demo

import (
	"context"
	_ "embed"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

//go:embed page.html
var page []byte

// Upstream is a running demonstration upstream.
type Upstream struct {
	// Addr is where it listens, host:port on the loopback interface.
	Addr string

	server *http.Server
	served chan struct{}
}

// Start starts an upstream on a free port of the loopback interface.
func Start() (*Upstream, error) {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /echo", echo)
	u := &Upstream{
		Addr:   ln.Addr().String(),
		server: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		served: make(chan struct{}),
	}
	go u.serve(ln)
	return u, nil
}

func (u *Upstream) serve(ln net.Listener) {
	defer close(u.served)
	// It ends with ErrServerClosed only, as nothing else closes its listener.
	_ = u.server.Serve(ln)
}

// Stop stops listening. WebSockets that are open end with their clients.
func (u *Upstream) Stop() error {
	err := u.server.Close()
	<-u.served
	return err
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page) // a browser that has gone does not need it
}

// echo sends every message back until the client closes.
func echo(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(16 << 20)
	for {
		if err := echoMessage(r.Context(), ws); err != nil {
			if _, closed := errors.AsType[websocket.CloseError](err); !closed {
				_ = ws.Close(websocket.StatusInternalError, "")
			}
			return
		}
	}
}

func echoMessage(ctx context.Context, ws *websocket.Conn) error {
	kind, from, err := ws.Reader(ctx)
	if err != nil {
		return err
	}
	to, err := ws.Writer(ctx, kind)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.Close()
}
