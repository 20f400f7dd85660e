package upstream

import "testing"

func TestAddressIsDownAfterSoManyFails(t *testing.T) {
	for name, test := range map[string]struct {
		passes, fails int
		probes        string // x fails
		want          string // x is down
	}{
		"defaults":           {1, 1, ".x.xx.", ".x.xx."},
		"three fails":        {1, 3, "xx.xxx.", ".....x."},
		"three passes":       {3, 1, "x..x...", "xxxxxx."},
		"both, and flapping": {2, 2, "x.x.x.xx.x.x..x", ".......xxxxxx.."},
	} {
		t.Run(name, func(t *testing.T) {
			c := new(Verdict)
			got := ""
			for _, probe := range test.probes {
				problem := ""
				if probe == 'x' {
					problem = "bad"
				}
				before := c.down
				if changed := c.countLocked(problem, test.passes, test.fails); changed != (before != c.down) {
					t.Errorf("after %s it says that it has changed: %t", got, changed)
				}
				if c.down {
					got += "x"
				} else {
					got += "."
				}
				if c.down && c.lastError == "" || !c.down && problem == "" && c.lastError != "" {
					t.Errorf("after %s the last error is %q", got, c.lastError)
				}
			}
			if got != test.want {
				t.Errorf("of probes %s it is down after %s, want %s", test.probes, got, test.want)
			}
		})
	}
}
