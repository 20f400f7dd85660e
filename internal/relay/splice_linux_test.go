package relay

import (
	"io"
	"sync"
	"testing"
	"time"
)

// More tunnels in bulk than there are pipes, all of them with receivers that
// do not read: those without pipes are read and written, and all pipes come
// back, also from tunnels that are aborted.
func TestPipesComeBack(t *testing.T) {
	const size = 16 << 20 // more than all buffers hold
	before := pipesInUse()
	all := openers(t)
	allPipes.mu.Lock()
	most := allPipes.limit
	allPipes.mu.Unlock()
	var rigs []*rig
	var senders sync.WaitGroup
	for range most + 10 {
		r := newRig(t, implementations["polled"], all["tcp"], all["tcp"])
		r.inspect = func(_ Direction, p []byte) Verdict { return Verdict{Pass: len(p), Ahead: 1 << 62} }
		r.skip = func(Direction, int) {}
		r.start()
		rigs = append(rigs, r)
		senders.Go(func() {
			_ = r.client.SetWriteDeadline(time.Now().Add(2 * patience))
			_, _ = r.client.Write(make([]byte, size)) // fails where it is aborted
			_ = socket{r.client.Conn}.CloseWrite()
		})
	}
	eventually(t, "all pipes are in use", func() bool { return pipesInUse() == most })
	for i, r := range rigs {
		if i%2 == 0 {
			r.relay.Abort()
			continue
		}
		_ = r.upstream.SetReadDeadline(time.Now().Add(patience))
		if n, err := io.Copy(io.Discard, r.upstream); n != size || err != nil {
			t.Errorf("got %d bytes, error %v, want %d bytes", n, err, size)
		}
	}
	senders.Wait()
	eventually(t, "all pipes are back", func() bool { return pipesInUse() == before })
}

func pipesInUse() int {
	allPipes.mu.Lock()
	defer allPipes.mu.Unlock()
	return allPipes.made - len(allPipes.free)
}
