package expiry

import (
	"testing"
	"time"
)

func TestSleepIsCounted(t *testing.T) {
	var told []time.Duration
	ahead, ok := time.Hour, true
	w := newSleepWatch(func(d time.Duration) { told = append(told, d) }, func() (time.Duration, bool) { return ahead, ok }, time.Minute)
	for i, step := range []struct {
		by   time.Duration
		ok   bool
		want time.Duration
	}{
		{0, true, 0},
		{time.Millisecond, true, 0},
		{2 * time.Hour, true, 2 * time.Hour},
		{0, true, 2 * time.Hour},
		{-5 * time.Hour, true, 2 * time.Hour}, // somebody sets the clock back
		{time.Minute, true, 2 * time.Hour},    // and a bit forward
		{10 * time.Hour, false, 2 * time.Hour},
		{0, true, 12 * time.Hour},
	} {
		if ahead, ok = ahead+step.by, step.ok; w.Slept() != step.want {
			t.Errorf("step %d: slept for %v, want %v", i, w.Slept(), step.want)
		}
	}
	if len(told) != 2 || told[0] != 2*time.Hour || told[1] != 10*time.Hour {
		t.Errorf("told of %v", told)
	}
}

func TestTheSystemsClocksAreNoSleepByThemselves(t *testing.T) {
	w := NewSleepWatch(func(d time.Duration) { t.Errorf("slept for %v", d) })
	for range 1000 {
		if d := w.Slept(); d != 0 {
			t.Fatalf("slept for %v", d)
		}
	}
}
