package tunnel

import "testing"

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
			var s storm
			var last sweep
			for i, next := range test.sweeps {
				if next != (sweep{}) { // which stands for no change
					last = next
				}
				if got := s.over(last.changes, last.live); got != test.want[i] {
					t.Errorf("sweep %d: over is %v, want %v", i, got, test.want[i])
				}
			}
		})
	}
}
