package tunnel

import (
	"runtime"
	"testing"
)

func TestStormIsNoticedWhenItIsOver(t *testing.T) {
	type sweep struct {
		changes uint64
		live    int
	}
	tests := map[string]struct {
		sweeps []sweep
		want   []bool
	}{
		"a storm of connections": {
			[]sweep{{3000, 3000}, {6000, 6000}, {6000, 6000}, {6000, 6000}, {6000, 6000}, {6000, 6000}},
			[]bool{false, false, false, false, true, false},
		},
		"with stragglers": {
			[]sweep{{6000, 6000}, {6010, 6010}, {6020, 6020}, {6030, 6030}},
			[]bool{false, false, false, true},
		},
		"not over": {
			[]sweep{{6000, 6000}, {6100, 6100}, {6200, 6200}, {6300, 6300}, {6400, 6400}},
			[]bool{false, false, false, false, false},
		},
		"too few": {
			[]sweep{{999, 999}, {999, 999}, {999, 999}, {999, 999}},
			[]bool{false, false, false, false},
		},
		"few of many": {
			[]sweep{{100_000, 100_000}, {0, 0}, {0, 0}, {0, 0}, {140_000, 100_000}, {0, 0}, {0, 0}, {0, 0}},
			[]bool{false, false, false, true, false, false, false, false},
		},
		"tunnels that end count too": {
			[]sweep{{6000, 0}, {6000, 0}, {6000, 0}, {6000, 0}},
			[]bool{false, false, false, true},
		},
		"a second one": {
			[]sweep{{6000, 6000}, {0, 0}, {0, 0}, {0, 0}, {9000, 9000}, {12_000, 12_000}, {0, 0}, {0, 0}, {0, 0}},
			[]bool{false, false, false, true, false, false, false, false, true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStorms(0, heapUse{})
			var last sweep
			for i, next := range test.sweeps {
				if next != (sweep{}) { // which stands for no change
					last = next
				}
				if got := s.over(last.changes, last.live, heapUse{}); got != test.want[i] {
					t.Errorf("sweep %d: over is %v, want %v", i, got, test.want[i])
				}
			}
		})
	}
}

func TestStormOfAllocationsIsNoticedWhenItIsOver(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		allocated []uint64 // MiB before the first sweep, and at each
		live      uint64   // MiB
		want      int      // the sweep at which it is over; 0 for never
	}{
		"large messages":         {[]uint64{50, 200, 380, 380, 381, 381, 381, 381}, 110, 5},
		"what was before":        {[]uint64{380, 380, 380, 380, 380}, 110, 0},
		"not over":               {[]uint64{50, 150, 250, 350, 450, 550}, 110, 0},
		"too little":             {[]uint64{50, 113, 113, 113, 113, 113}, 0, 0},
		"little for a full heap": {[]uint64{50, 150, 150, 150, 150, 150}, 300, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStorms(1000, heapUse{allocated: test.allocated[0] * mib})
			for i, allocated := range test.allocated[1:] {
				got := s.over(1000, 1000, heapUse{allocated: allocated * mib, live: test.live * mib})
				if want := i+1 == test.want; got != want {
					t.Errorf("sweep %d: over is %v, want %v", i+1, got, want)
				}
			}
		})
	}
}

func TestHeapIsRead(t *testing.T) {
	r := newHeapReader()
	before := r.read()
	runtime.KeepAlive(make([]byte, 10<<20))
	runtime.GC()
	after := r.read()
	if got := after.allocated - before.allocated; got < 10<<20 || after.live == 0 {
		t.Errorf("got %d bytes more after 10 MiB, and %d alive", got, after.live)
	}
}
