package relay

import "testing"

// A part of an inserted frame may be all that a destination takes at first.
func TestWhatWasInsertedIsNoTraffic(t *testing.T) {
	for name, test := range map[string]struct{ read, taken, written, want uint64 }{
		"before anything was read":    {0, 0, 5, 0},
		"when all that came is taken": {100, 100, 5, 100},
		"a part of what came":         {100, 40, 30, 70},
		"with all that came":          {100, 40, 80, 99},
	} {
		t.Run(name, func(t *testing.T) {
			var c course
			c.read.Store(test.read)
			c.taken.Store(test.taken)
			if c.progress(int(test.written)); c.taken.Load() != test.want {
				t.Errorf("%d are taken, want %d", c.taken.Load(), test.want)
			}
		})
	}
}
