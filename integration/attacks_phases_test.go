package integration

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// phases are how far a WebSocket has come when its client ends it.
var phases = map[string]struct {
	path string
	// begin goes on after the request was sent.
	begin func(t *testing.T, s stream)
}{
	"before the answer": {"/silent", func(*testing.T, stream) {}},
	"at once":           {"/", func(*testing.T, stream) {}},
	"open":              {"/", awaitTunnel},
	"inside of a frame": {"/", func(t *testing.T, s stream) {
		t.Helper()
		awaitTunnel(t, s)
		writeAll(t, s, testbed.NewFrame(testbed.Text, "half of it").Bytes(true)[:5])
	}},
	"inside of a message": {"/", func(t *testing.T, s stream) {
		t.Helper()
		awaitTunnel(t, s)
		writeAll(t, s, testbed.Frame{Opcode: testbed.Text, Payload: []byte("half of it")}.Bytes(true))
	}},
	"after its Close": {"/", func(t *testing.T, s stream) {
		t.Helper()
		awaitTunnel(t, s)
		writeAll(t, s, testbed.NewClose(1000, "").Bytes(true))
	}},
	"after nonsense": {"/drain", func(t *testing.T, s stream) {
		t.Helper()
		awaitTunnel(t, s)
		writeAll(t, s, []byte(strings.Repeat("\xff", 1000)))
	}},
	"while much comes": {"/flood", awaitTunnel},
	"while it is stuck": {"/stuck", func(t *testing.T, s stream) {
		t.Helper()
		awaitTunnel(t, s)
		fillUp(t, &streamClient{stream: s})
	}},
}

// endings are what clients do then.
var endings = map[string]func(t *testing.T, s stream){
	"FIN":           func(t *testing.T, s stream) { t.Helper(); s.closeWrite(t) },
	"reset":         func(t *testing.T, s stream) { t.Helper(); s.cancel(t) },
	"FIN and reset": func(t *testing.T, s stream) { t.Helper(); s.closeWrite(t); s.cancel(t) },
}

func awaitTunnel(t *testing.T, s stream) {
	t.Helper()
	if status, _ := s.response(t); status != 200 {
		t.Fatalf("the response has status %d, want 200", status)
	}
}

func writeAll(t *testing.T, s stream, b []byte) {
	t.Helper()
	if _, err := s.Write(b); err != nil {
		t.Fatal(err)
	}
}

// TestEndsInEachPhase has streams end in each phase, all of them in one connection with a
// healthy one. In the end another connection is cut in each phase.
func TestEndsInEachPhase(t *testing.T) {
	t.Parallel()
	for protocol, connect := range connectors {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			c := startAttacked(t)
			other := openWebSocket(t, connect(t, c), webSocket("/"))
			other.echo(t, "before")
			before := c.holdings(t)
			open := connect(t, c)
			neighbour := openWebSocket(t, open, webSocket("/"))
			if s, ok := neighbour.stream.(*h2Stream); ok {
				s.conn.widen(t) // so that what nobody reads keeps nothing else
			}
			for phase, how := range phases {
				for ending, end := range endings {
					s := open(t, webSocket(how.path))
					how.begin(t, s)
					end(t, s)
					neighbour.echo(t, ending+" "+phase)
				}
				s := connect(t, c)(t, webSocket(how.path))
				how.begin(t, s)
				s.disconnect(t)
				other.echo(t, "a cut "+phase)
			}
			neighbour.disconnect(t)
			expectHoldings(t, c, before)
			other.echo(t, "at the end")
		})
	}
}
