package relay

import (
	"crypto/tls"
	"io"
	"testing"
)

func TestBufferFollowsTheTraffic(t *testing.T) {
	const small, medium, large, record = 1 << 10, 20 << 10, 64 << 10, 16 << 10
	tests := map[string]struct {
		reads []int // bytes that each read returned
		want  int   // size for the next one
	}{
		"small at first":                 {nil, small},
		"small for small messages":       {[]int{1, 100, small - 1}, small},
		"larger after a full read":       {[]int{small}, medium},
		"largest after two full ones":    {[]int{small, medium}, large},
		"not larger than that":           {[]int{small, medium, large, large}, large},
		"stays while it is needed":       {[]int{small, small + 1, medium - 1}, medium},
		"large while bulk flows":         {[]int{small, medium, large, large, large}, large},
		"not large during a silence":     {[]int{small, medium, large, large - 1}, medium},
		"smaller when less would do":     {[]int{small, medium, medium}, medium},
		"small again after bulk":         {[]int{small, medium, large, 10, 10}, small},
		"stays for TLS records":          {[]int{small, record, record}, medium},
		"one step at a time":             {[]int{small, medium, large, 10}, medium},
		"small after one larger message": {[]int{small, 10}, small},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			buf := newBuffer()
			defer buf.free()
			for _, n := range test.reads {
				buf.adapt(n)
			}
			if got := len(buf.bytes()); got != test.want {
				t.Errorf("the next read has room for %d bytes, want %d", got, test.want)
			}
		})
	}
}

func TestBuffersAreUsedAgain(t *testing.T) {
	warm := newBuffer()
	for _, size := range bufferSizes {
		warm.adapt(size)
	}
	warm.free()
	allocs := testing.AllocsPerRun(100, func() {
		buf := newBuffer()
		for _, size := range bufferSizes {
			buf.adapt(size)
		}
		buf.free()
	})
	// One for the buffer's own place, which escapes here; now and then the
	// garbage collector empties the pools.
	if allocs > 2 && !raceEnabled {
		t.Errorf("%v allocations for each use", allocs)
	}
}

func TestRelayedMessagesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	oneByOne(t, allKinds, func(t *testing.T, open func() *rig) {
		r := open()
		r.start()
		p, q := []byte(message(64)), make([]byte, 64)
		pass := func(from, to end) {
			_, err := from.Write(p)
			if err == nil {
				_, err = io.ReadFull(to.Conn, q)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		pass(r.client, r.upstream)
		pass(r.upstream, r.client)
		// A hand-over allocates, but is no part of a message: it happens once in
		// loadInterval at most.
		r.settled.Store(true)
		allocs := testing.AllocsPerRun(1000, func() {
			pass(r.client, r.upstream)
			pass(r.upstream, r.client)
		})
		want := 0.0
		if _, ok := r.client.Conn.(*tls.Conn); ok {
			want = 4 // crypto/tls makes one for each record that it reads
		}
		if allocs > want {
			t.Errorf("%v allocations for each echo, want %v", allocs, want)
		}
	})
}
