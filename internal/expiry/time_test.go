package expiry

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func TestTimesAreUnderstood(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1772366400":                0,
		"1772366460":                time.Minute,
		"1772366400.5":              500 * time.Millisecond,
		"1.77236646e9":              time.Minute,
		"1.77236646e+09":            time.Minute,
		" 1772366460 ":              time.Minute,
		"+1772366460":               time.Minute,
		"1772366340":                -time.Minute,
		"2026-03-01T12:01:00Z":      time.Minute,
		"2026-03-01T13:01:00+01:00": time.Minute,
		"2026-03-01T12:00:00.25Z":   250 * time.Millisecond,
		"1h30m":                     90 * time.Minute,
		"7d":                        7 * 24 * time.Hour,
		"1d12h":                     36 * time.Hour,
		"-5s":                       -5 * time.Second,
		"2035-01-01T00:00:00Z":      77460 * time.Hour,
	} {
		at, err := Parse(text, now)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := at.Sub(now).Round(time.Millisecond); got != want {
			t.Errorf("%q is %v from now, want %v", text, got, want)
		}
	}
	for _, text := range []string{"0", "-1", "-1e300", "0.0"} {
		if at, err := Parse(text, now); err != nil || !at.Before(now) {
			t.Errorf("%q is %v, %v, want a time that has passed", text, at, err)
		}
	}
}

func TestWhatIsNoTime(t *testing.T) {
	for text, want := range map[string]error{
		"":                            ErrMissing,
		"  ":                          ErrMissing,
		"soon":                        ErrNone,
		"NaN":                         ErrNone,
		"Inf":                         ErrNone,
		"0x7fffffff":                  ErrNone,
		"1_000":                       ErrNone,
		"2026-03-01":                  ErrNone,
		"2026-03-01 12:00:00":         ErrNone,
		"Sun, 01 Mar 2026 12:00:00 Z": ErrNone,
		"d":                           ErrNone,
		"5":                           nil,
		"1772366460\x00":              ErrNone,
		"1772366400000":               ErrTooFar, // milliseconds
		"1e300":                       ErrTooFar,
		"1e999":                       ErrTooFar,
		"99999999999999999999999999":  ErrTooFar,
		"4000d":                       ErrTooFar,
		"999999999d":                  ErrTooFar,
		"2000000h":                    ErrTooFar,
		"9999-12-31T23:59:59Z":        ErrTooFar,
		strings.Repeat("1", 100<<10):  ErrNone,
		"{http.auth.user.exp}":        ErrNone,
	} {
		if _, err := Parse(text, now); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", text, err, want)
		}
	}
}

func TestLiterals(t *testing.T) {
	for text, ok := range map[string]bool{
		"1h": true, "2027-01-01T00:00:00Z": true, "2020-01-01T00:00:00Z": true, "0s": false, "-1h": false, "off": false, "": false, "{x}": true,
	} {
		if err := CheckText(text, now); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1772366400", "1.7e9", "2026-03-01T12:00:00Z", "1h", "7d", "9d9", "-1", "1e309"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := Parse(s, now)
		if err == nil && at.Sub(now) > Longest {
			t.Errorf("%q is %v", s, at)
		}
		if err != nil && (!at.IsZero() || len(err.Error()) > 300) {
			t.Errorf("%q is %v, %v", s, at, err)
		}
	})
}
