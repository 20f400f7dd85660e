package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// subprotocols are those that the servers speak.
var subprotocols = []string{"chat.v3", "chat.v2"}

// server is an upstream made with somebody's WebSocket library. It sends
// messages back, except for these texts:
//
//	!ping <payload>          it sends a Ping, and when the Pong has come the
//	                         text "!pong <payload>"
//	!close <code> <reason>   it begins a closing handshake
type server struct {
	addr string
	// ends has what each connection ended with.
	ends chan end
}

// end is the end of a connection, as one side sees it.
type end struct {
	Code        int    `json:"code"` // in the peer's Close frame, -1 if there was none
	Reason      string `json:"reason"`
	Subprotocol string `json:"subprotocol"`
}

// servers start one of each kind.
var servers = map[string]func(testing.TB) *server{
	"gorilla": startGorilla,
	"coder":   startCoder,
	"node":    startNode,
}

func startHTTP(tb testing.TB, serve func(w http.ResponseWriter, r *http.Request) end) *server {
	tb.Helper()
	s := &server{ends: make(chan end, 1000)}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ends <- serve(w, r)
	}))
	tb.Cleanup(hs.Close)
	s.addr = hs.Listener.Addr().String()
	return s
}

// command splits a text of the servers' language.
func command(payload []byte) (name, arg string) {
	name, arg, _ = strings.Cut(string(payload), " ")
	return name, arg
}

// closeArg parses the argument of !close.
func closeArg(arg string) (code int, reason string) {
	number, reason, _ := strings.Cut(arg, " ")
	_, _ = fmt.Sscanf(number, "%d", &code)
	return code, reason
}

func startGorilla(tb testing.TB) *server {
	tb.Helper()
	up := gorilla.Upgrader{EnableCompression: true, Subprotocols: subprotocols}
	return startHTTP(tb, func(w http.ResponseWriter, r *http.Request) end {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return end{Code: -1, Reason: err.Error()}
		}
		defer conn.Close()
		conn.SetPongHandler(func(payload string) error {
			return conn.WriteMessage(gorilla.TextMessage, []byte("!pong "+payload))
		})
		err = serveGorilla(conn)
		return gorillaEnd(conn, err)
	})
}

func serveGorilla(conn *gorilla.Conn) error {
	for {
		_ = conn.SetReadDeadline(time.Now().Add(2 * timeout))
		typ, payload, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		switch name, arg := command(payload); name {
		case "!ping":
			err = conn.WriteControl(gorilla.PingMessage, []byte(arg), time.Now().Add(timeout))
		case "!close":
			message := gorilla.FormatCloseMessage(closeArg(arg))
			err = conn.WriteControl(gorilla.CloseMessage, message, time.Now().Add(timeout))
		default:
			err = conn.WriteMessage(typ, payload)
		}
		if err != nil {
			return err
		}
	}
}

func gorillaEnd(conn *gorilla.Conn, err error) end {
	if closed, ok := errors.AsType[*gorilla.CloseError](err); ok {
		return end{Code: closed.Code, Reason: closed.Text, Subprotocol: conn.Subprotocol()}
	}
	return end{Code: -1, Reason: err.Error(), Subprotocol: conn.Subprotocol()}
}

func startCoder(tb testing.TB) *server {
	tb.Helper()
	opts := &websocket.AcceptOptions{
		Subprotocols:       subprotocols,
		InsecureSkipVerify: true, // Origin is not checked here
		CompressionMode:    websocket.CompressionContextTakeover,
	}
	return startHTTP(tb, func(w http.ResponseWriter, r *http.Request) end {
		conn, err := websocket.Accept(w, r, opts)
		if err != nil {
			return end{Code: -1, Reason: err.Error()}
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(-1)
		err = serveCoder(r.Context(), conn)
		return coderEnd(conn, err)
	})
}

func serveCoder(ctx context.Context, conn *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 4*timeout)
	defer cancel()
	for {
		typ, payload, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		switch name, arg := command(payload); name {
		case "!ping":
			go func() { // it takes the read loop to get the Pong
				if conn.Ping(ctx) == nil { // with a payload of its own, which it compares
					_ = conn.Write(ctx, websocket.MessageText, []byte("!pong "+arg))
				}
			}()
		case "!close":
			code, reason := closeArg(arg)
			if err := conn.Close(websocket.StatusCode(code), reason); err != nil {
				return err
			}
			// It compares the code of the answer, and tells only a difference.
			return websocket.CloseError{Code: websocket.StatusCode(code)}
		default:
			if err := conn.Write(ctx, typ, payload); err != nil {
				return err
			}
		}
	}
}

func coderEnd(conn *websocket.Conn, err error) end {
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		return end{Code: int(closed.Code), Reason: closed.Reason, Subprotocol: conn.Subprotocol()}
	}
	return end{Code: -1, Reason: err.Error(), Subprotocol: conn.Subprotocol()}
}

func startNode(tb testing.TB) *server {
	tb.Helper()
	s := &server{ends: make(chan end, 1000)}
	ready := make(chan string, 1)
	runNode(tb, func(stdout *bufio.Scanner) {
		if stdout.Scan() {
			ready <- stdout.Text()
		}
		for stdout.Scan() {
			var e end
			if err := json.Unmarshal(stdout.Bytes(), &e); err == nil {
				s.ends <- e
			}
		}
	}, "server.js")
	s.addr = within(tb, "the Node server listens", ready)
	return s
}
