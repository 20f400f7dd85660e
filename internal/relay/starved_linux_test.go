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
		to := w.d.Opposite()
		eventually(t, "the destination takes nothing", func() bool {
			w.waitStalled()
			tookNothing := true
			w.atPoller(func(r *polled) {
				c := &r.dirs[w.d]
				for n := int(c.refusals); n < mostRefusals; n++ {
					if r.armed[to]&unix.EPOLLOUT == 0 {
						t.Errorf("the destination is left alone after %d refusals", n)
					}
					before := c.unwritten()
					r.ready(int(to), unix.EPOLLOUT)
					if tookNothing = c.unwritten() == before; !tookNothing {
						return // a probe of its window made room
					}
				}
				if r.armed[to]&unix.EPOLLOUT != 0 {
					t.Errorf("the destination is asked again after %d refusals", mostRefusals)
				}
			})
			return tookNothing
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
