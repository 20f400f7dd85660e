package relay

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// spliced is eachWay for relays of sockets that pass on bulk without showing it.
// What belongs to it is read by then, and the source is silent.
func spliced(t *testing.T, test func(t *testing.T, w way)) {
	t.Helper()
	all := openers(t)
	for _, name := range []string{"polled", "handed over"} {
		for d := range Direction(2) {
			t.Run(name+"/"+directions[d], func(t *testing.T) {
				w := newRig(t, implementations[name], all["tcp"], all["tcp"]).way(d)
				skipped := make(chan struct{}, 1)
				w.inspect = func(_ Direction, p []byte) Verdict { return Verdict{Pass: len(p), Ahead: 1 << 62} }
				w.skip = func(Direction, int) {
					select {
					case skipped <- struct{}{}:
					default:
					}
				}
				w.onEnded = func(Direction, End) { w.abort() }
				w.start()
				for len(skipped) == 0 {
					const size = 4 << 20
					sent := w.from.pour(size)
					if want, got := <-sent, <-w.to.gather(size); got != want {
						t.Fatalf("checksum %#x, want %#x", got, want)
					}
				}
				test(t, w)
			})
		}
	}
}

// A splice does not get past urgent data, which a peer may send just so.
func TestBulkGoesOnAfterUrgentData(t *testing.T) {
	spliced(t, func(t *testing.T, w way) {
		socket, err := w.from.Conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		w.from.send("before")
		var failed error
		err = socket.Control(func(fd uintptr) { failed = unix.Send(int(fd), []byte("!"), unix.MSG_OOB) })
		if err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		w.from.send("after")
		w.to.expect("beforeafter")
		expectRest(t)
	})
}

// A splice takes the error of a socket, which nothing tells any more then.
func TestRelayReportsAResetOfBulk(t *testing.T) {
	spliced(t, func(t *testing.T, w way) {
		w.from.reset()
		if end := w.waitEnded(w.d); !isReset(end.Err) || end.Writing {
			t.Errorf("the direction ended with %+v, want a reset while reading", end)
		}
		w.waitDone()
	})
}
