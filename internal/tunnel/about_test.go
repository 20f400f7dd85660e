package tunnel

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"
)

// A process may have a million tunnels.
func TestATunnelIsSmall(t *testing.T) {
	const most = 640 // a size class of Go's allocator
	if got := unsafe.Sizeof(Tunnel{}); got > most {
		t.Errorf("a tunnel has %d bytes, want %d at most", got, most)
	}
}

func TestTargetsAreShortAndWhole(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"short":          {"/ws", "/ws"},
		"as long as can": {strings.Repeat("x", maxTarget), strings.Repeat("x", maxTarget)},
		"too long":       {strings.Repeat("x", 1<<20), strings.Repeat("x", maxTarget-3) + "…"},
		"in a character": {strings.Repeat("é", maxTarget), strings.Repeat("é", (maxTarget-3)/2) + "…"},
	} {
		got := Target{Path: test.in}.Keep().Target().Path
		if got != test.want || len(got) > maxTarget || !utf8.ValidString(got) {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if got := (Asked{}).Target(); got != (Target{}) {
		t.Errorf("nothing has asked for %v", got)
	}
}

func TestKeepingATargetAllocatesOnce(t *testing.T) {
	target := Target{"h1", "example.com", "/ws"}
	kept := target.Keep()
	if n := testing.AllocsPerRun(100, func() {
		if target.Keep() != kept {
			t.Error("it is kept twice")
		}
	}); n != 0 {
		t.Errorf("keeping what is kept allocates %v times", n)
	}
}

func TestMicrosecondsOfDurations(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		-time.Second:           0,
		1999 * time.Nanosecond: time.Microsecond,
		90 * time.Second:       90 * time.Second,
		1000 * time.Hour:       (1<<32 - 1) * time.Microsecond,
	} {
		if got := MicrosOf(d).Duration(); got != want {
			t.Errorf("%v is kept as %v, want %v", d, got, want)
		}
	}
}
