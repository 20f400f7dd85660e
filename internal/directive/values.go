package directive

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Arg returns the option's next argument. The error that there is none says what it
// needs.
func (r *Reader) Arg(needs string) (string, error) {
	option := r.Val()
	if !r.NextArg() {
		return "", r.Errf("%s needs %s", option, needs)
	}
	return r.Val(), nil
}

// Number parses the argument that the reader stands on. what says in an error what it is.
func (r *Reader) Number(field *int, least, most int, what string) error {
	n, err := strconv.Atoi(r.Val())
	if err != nil || n < least || n > most {
		return r.Errf("%s, not %q", what, r.Val())
	}
	*field = n
	return nil
}

// Duration is Number for durations.
func (r *Reader) Duration(field *caddy.Duration, least time.Duration, what string) error {
	duration, err := caddy.ParseDuration(r.Val())
	if err != nil || duration < least {
		return r.Errf("%s, not %q", what, r.Val())
	}
	*field = caddy.Duration(duration)
	return nil
}

// Word is Number for one of some words.
func (r *Reader) Word(field *string, what string, words ...string) error {
	if !slices.Contains(words, r.Val()) {
		return r.Errf("%s, not %q", what, r.Val())
	}
	*field = r.Val()
	return nil
}

// AnyNumber reads a number, such as it says.
func (r *Reader) AnyNumber(field *int, what string) error {
	option := r.Val()
	if _, err := r.Arg(what); err != nil {
		return err
	}
	return r.Number(field, math.MinInt, math.MaxInt, option+" is "+what)
}

// OneOf reads one of two words.
func (r *Reader) OneOf(field *string, one, other string) error {
	option := r.Val()
	if _, err := r.Arg(one + " or " + other); err != nil {
		return err
	}
	return r.Word(field, option+" is "+one+" or "+other, one, other)
}

// DurationOrZero reads a duration that may be zero.
func (r *Reader) DurationOrZero(field *caddy.Duration) error {
	option := r.Val()
	if _, err := r.Arg("a duration, such as 5s"); err != nil {
		return err
	}
	return r.Duration(field, 0, option+" is a duration such as 5s")
}

// DurationOrOff reads a duration or off. In the configuration zero means the default, so
// it is refused rather than taken for either.
func (r *Reader) DurationOrOff(field *caddy.Duration) error {
	option := r.Val()
	s, err := r.Arg("a duration, such as 30s")
	if err != nil {
		return err
	}
	if s == "off" {
		*field = -1
		return nil
	}
	duration, err := caddy.ParseDuration(s)
	if err != nil {
		return r.Errf("%s is a duration such as 30s, or off, not %q", option, s)
	}
	if duration <= 0 {
		return r.Errf("%s is %s; write off for no limit, or leave it out for the default", option, s)
	}
	*field = caddy.Duration(duration)
	return nil
}

// Count reads a number of at least one.
func (r *Reader) Count(field *int) error {
	option := r.Val()
	if _, err := r.Arg("a number"); err != nil {
		return err
	}
	return r.Number(field, 1, math.MaxInt, option+" is a number of at least 1")
}

// CountOrOff is Count of an option that can be off.
func (r *Reader) CountOrOff(field *int) error {
	option := r.Val()
	if s, err := r.Arg("a number"); err != nil {
		return err
	} else if s == "off" {
		*field = -1
		return nil
	}
	return r.Number(field, 1, math.MaxInt, option+" is a number of at least 1, or off")
}

// SizeOrOff reads a number of bytes or off.
func (r *Reader) SizeOrOff(field *int64) error {
	option := r.Val()
	s, err := r.Arg("a size, such as 1MiB")
	if err != nil {
		return err
	}
	if s == "off" {
		*field = -1
		return nil
	}
	size, err := humanize.ParseBytes(s)
	if err != nil || size > math.MaxInt64 {
		return r.Errf("%s is a size such as 64KB or 1MiB, or off, not %q", option, s)
	}
	if size == 0 {
		return r.Errf("%s is %s; write off for no limit", option, s)
	}
	*field = int64(size)
	return nil
}

// Percentage is Number for a percentage, such as 10%, which makes a part of one.
func (r *Reader) Percentage(field *float64, what string) error {
	number, ok := strings.CutSuffix(r.Val(), "%")
	percent, err := strconv.ParseFloat(number, 64)
	// The comparison is written so that NaN fails it.
	if !ok || err != nil || !(percent >= 0 && percent <= 100) {
		return r.Errf("%s, not %q", what, r.Val())
	}
	*field = percent / 100
	return nil
}

// Words adds all arguments of an option to the list that it sets.
func (r *Reader) Words(list *[]string) error {
	option := r.Val()
	if r.CountRemainingArgs() == 0 {
		return r.Errf("%s needs at least one value", option)
	}
	for r.NextArg() {
		if err := WithoutCommas(option, r.Token()); err != nil {
			return err
		}
		r.Note(r.syntax.options[option][0], len(*list), r.Token())
		*list = append(*list, r.Val())
	}
	return nil
}

// WithoutCommas refuses words with commas where values are separated by spaces.
func WithoutCommas(option string, t caddyfile.Token) error {
	if strings.Contains(t.Text, ",") {
		return ErrorAt(t, "%s %q has a comma; values are separated by spaces only", option, t.Text)
	}
	return nil
}
