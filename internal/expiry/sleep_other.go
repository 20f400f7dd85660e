//go:build !linux

package expiry

import "time"

// leastSleep is by how much the clock on the wall has to be ahead of Go's to be taken
// for a sleep: less may be somebody who sets it.
const leastSleep = time.Minute

// systemAhead compares the clock on the wall with Go's, which stands still in a sleep.
func systemAhead() func() (time.Duration, bool) {
	start := time.Now()
	return func() (time.Duration, bool) {
		now := time.Now()
		return now.Round(0).Sub(start.Round(0)) - now.Sub(start), true
	}
}
