package relay

import (
	"io"
	"testing"
	"time"
)

func (s socket) Reset() {
	if conn, ok := raw(s.Conn).(interface{ SetLinger(sec int) error }); ok {
		_ = conn.SetLinger(0)
	}
}

// expectReset checks that the peer has nothing more to say because of a reset.
func (e end) expectReset() {
	e.tb.Helper()
	_ = e.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(e)
	if len(rest) > 0 || !isReset(err) {
		e.tb.Fatalf("got %.80q and error %v, want a reset", rest, err)
	}
}

// The owner has the end of a source told by a reset instead, when it wants that.
func TestRelayResetsADestination(t *testing.T) {
	for name, leave := range map[string]func(w way){
		"of a source that has ended": func(w way) { w.from.closeWrite() },
		"of a source that was reset": func(w way) { w.from.reset() },
		"that has words for nobody":  func(w way) { w.from.reset(); w.to.send("lost") },
		"of a source that goes on":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, resettable, func(t *testing.T, w way) {
				w.resets = func(d Direction, _ End) bool { return d == w.d }
				w.start()
				w.from.expectEcho(w.to, "hello")
				w.from.send("the last words")
				w.to.expect("the last words")
				if leave != nil {
					leave(w)
					w.waitEnded(w.d)
				}
				w.relay.Reset(w.d)
				w.to.expectReset()
				w.waitDone()
			})
		})
	}
}
