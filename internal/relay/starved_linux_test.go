package relay

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A system that is short of memory for TCP calls sockets writable that take
// nothing. A poller that believes it has no rest.
func TestWritableDestinationThatTakesNothingIsLeftAlone(t *testing.T) {
	polledWay(t, func(t *testing.T, w way) {
		const size = 8 << 20
		w.smallBuffers()
		w.start()
		sent := w.from.pour(size)
		w.waitStalled()
		to := w.d.Opposite()
		w.atPoller(func(r *polled) {
			for n := range mostRefusals {
				if r.armed[to]&unix.EPOLLOUT == 0 {
					t.Errorf("the destination is left alone after %d refusals", n)
				}
				r.ready(int(to), unix.EPOLLOUT)
			}
			if r.armed[to]&unix.EPOLLOUT != 0 {
				t.Errorf("the destination is asked again after %d refusals", mostRefusals)
			}
		})
		if want, got := <-w.to.gather(size), <-sent; got != want {
			t.Errorf("checksum %#x, want %#x", got, want)
		}
		w.look(func(c *course) {
			if c.refusals != 0 {
				t.Errorf("%d refusals are counted after all was taken", c.refusals)
			}
		})
	})
}
