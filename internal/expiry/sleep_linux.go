package expiry

import (
	"time"

	"golang.org/x/sys/unix"
)

// leastSleep is what two readings of the clocks do not differ by.
const leastSleep = 100 * time.Millisecond

// systemAhead compares CLOCK_BOOTTIME, which goes on in a suspend, with
// CLOCK_MONOTONIC, which is Go's. Nobody can set either.
func systemAhead() func() (time.Duration, bool) {
	return func() (time.Duration, bool) {
		// Whoever loses the processor in between tries again.
		for range 3 {
			before, err := readClock(unix.CLOCK_MONOTONIC)
			boot, err2 := readClock(unix.CLOCK_BOOTTIME)
			after, err3 := readClock(unix.CLOCK_MONOTONIC)
			if err != nil || err2 != nil || err3 != nil {
				return 0, false
			}
			if after-before < leastSleep/10 {
				return boot - before, true
			}
		}
		return 0, false
	}
}

func readClock(id int32) (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(id, &t)
	return time.Duration(t.Nano()), err
}
