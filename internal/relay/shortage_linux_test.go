package relay

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Where descriptors are short, a relay of sockets runs on goroutines, which need none.
func TestRelayStartsWithoutDescriptors(t *testing.T) {
	if _, err := choosePoller(); err != nil { // which has some of its own
		t.Fatal(err)
	}
	all := openers(t)
	before := descriptors(t)
	for _, test := range []struct {
		name string
		left uint64
	}{
		{"none is left", 0},
		{"one is left, of two that it takes", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, implementations["polled"], all["tcp"], all["tcp"])
			withDescriptors(t, lowestFree(t)+test.left, r.start)
			if _, ok := r.relay.(*goroutines); !ok {
				t.Errorf("the relay is a %T, want one on goroutines", r.relay)
			}
			r.client.expectEcho(r.upstream, "hello")
			r.client.closeWrite()
			r.upstream.expectEnd()
			r.upstream.closeWrite()
			r.client.expectEnd()
			r.waitDone()
		})
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors are %v, were %v", after, before)
	}
}

// lowestFree is the number that the next descriptor gets.
func lowestFree(t *testing.T) uint64 {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	return uint64(fd)
}
