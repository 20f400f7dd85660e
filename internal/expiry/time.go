// Package expiry is about the times at which what clients have come with expires: how
// they are written, and how much of them has passed, also while the machine slept. It
// knows the system's clocks and what a configuration says, and nothing of tunnels. The only lock is that of a
// [SleepWatch], under which only its clocks are read.
package expiry

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Longest is how far ahead a time may be. What is further is no time: milliseconds
// taken for seconds would mean never.
const Longest = 10 * 365 * 24 * time.Hour

// What may be wrong with a time.
var (
	// ErrMissing: there is none.
	ErrMissing = errors.New("is empty")
	// ErrNone: it is no time.
	ErrNone = errors.New("is neither Unix seconds, such as 1767225600, nor a time such as 2026-01-01T00:00:00Z, " +
		"nor a duration such as 1h")
	// ErrTooFar: it is no time, as it is more than Longest ahead.
	ErrTooFar = errors.New("is more than ten years ahead; Unix times are in seconds")
)

// longestText is how many bytes a time may have.
const longestText = 64

var (
	// number matches Unix seconds (RFC 7519 section 2, NumericDate). Modules that hand
	// on what was a number in JSON may write an exponent.
	number = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$`)
	days   = regexp.MustCompile(`^([0-9]{1,9})d(.*)$`)
)

// Parse reads a time: Unix seconds, also with a fraction, a time as in RFC 3339, or a
// duration from now on, of Go's or with days. One that has passed is a time too.
func Parse(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, ErrMissing
	}
	if len(s) > longestText {
		return time.Time{}, fmt.Errorf("%w; it has %d bytes", ErrNone, len(s))
	}
	at, ok := parse(s, now)
	switch {
	case !ok:
		return time.Time{}, ErrNone
	case at.Sub(now) > Longest:
		return time.Time{}, ErrTooFar
	}
	return at, nil
}

func parse(s string, now time.Time) (time.Time, bool) {
	if number.MatchString(s) {
		seconds, err := strconv.ParseFloat(s, 64)
		if err != nil && seconds == 0 {
			return time.Time{}, false
		}
		// What is out of bounds has to stay so, and its sum must not overflow.
		seconds = max(0, min(seconds, float64(now.Add(2*Longest).Unix())))
		whole := float64(int64(seconds))
		return time.Unix(int64(whole), int64((seconds-whole)*1e9)), true
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at, true
	}
	d, err := parseDuration(s)
	return now.Add(d), err == nil
}

// parseDuration reads a duration as Caddyfiles have it, bounded by what is too far.
func parseDuration(s string) (d time.Duration, err error) {
	rest, whole := s, time.Duration(0)
	if found := days.FindStringSubmatch(s); found != nil {
		n, err := strconv.Atoi(found[1])
		if err != nil {
			return 0, err
		}
		whole, rest = time.Duration(min(n, 10000))*24*time.Hour, found[2]
		if rest == "" {
			return whole, nil
		}
	}
	d, err = time.ParseDuration(rest)
	return whole + min(d, 2*Longest), err
}
