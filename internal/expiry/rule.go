package expiry

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

// Rule says until when a client may have its tunnel, as a token says that it has come
// with.
type Rule struct {
	// Time at which the tunnel ends: seconds since 1970, also with a fraction, as in a
	// token (RFC 7519 section 2), a time as in RFC 3339, or a duration from the handshake
	// on. Usually a placeholder, which is expanded in the handshake. A time that has
	// passed, or none, is refused with 401, what is no time, or more than ten years ahead,
	// with 500. Required.
	At string `json:"at"`

	// Time after that over which the tunnels end, each at its own moment, so that those
	// whose tokens were issued together do not come back together. It does not make a
	// handshake come in time. At most a day. Default: 0.
	Leeway caddy.Duration `json:"leeway,omitempty"`

	// If true, a handshake for which there is no time is accepted, and its tunnel does
	// not expire. Default: false.
	Optional bool `json:"optional,omitempty"`

	// Status of the Close frames: one that RFC 6455 section 7.4 or its registry allows in
	// a frame, or 3000 to 4999. Default: 1008.
	Code int `json:"code,omitempty"`

	// What becomes of a handshake whose time has passed: `refuse` answers 401; `close`
	// accepts it and closes it at once with that status, without asking an upstream, for
	// scripts in browsers, which see no 401 and would come again for ever. That is done
	// for at most 1,000 clients at a time, and 100 from one address (or IPv6 network of 64
	// bits), the others get 401. Default: refuse.
	OnExpired string `json:"on_expired,omitempty"`
}

// What Rule.OnExpired may say.
const (
	Refuse = "refuse"
	Close  = "close"
)

// longestLeeway bounds Rule.Leeway.
const longestLeeway = 24 * time.Hour

// Check reports what is wrong with the rule. The text begins with the path in JSON. No
// rule is none that is wrong.
func (r *Rule) Check() error {
	if r == nil {
		return nil
	}
	const noEffect = "has no effect without expires, in JSON expiry.at; set that too"
	switch {
	case r.At == "" && r.Code != 0:
		return errors.New("expiry.code: " + noEffect)
	case r.At == "" && r.OnExpired != "":
		return errors.New("expiry.on_expired: " + noEffect)
	case r.Leeway < 0 || r.Leeway > caddy.Duration(longestLeeway):
		return errors.New("expiry.leeway: has a leeway that is not between 0 and a day")
	case r.OnExpired != "" && r.OnExpired != Refuse && r.OnExpired != Close:
		return fmt.Errorf("expiry.on_expired: %q is neither refuse nor close", r.OnExpired)
	}
	if err := CheckText(r.At, time.Now()); err != nil {
		return fmt.Errorf("expiry.at: %q %w", r.At, err)
	}
	if r.Code != 0 {
		if problem := frame.CloseCodeProblem(r.Code); problem != "" {
			return errors.New("expiry.code: " + problem)
		}
	}
	return nil
}

// CloseCode is the status of the Close frames.
func (r *Rule) CloseCode() uint16 { return uint16(cmp.Or(r.Code, frame.StatusPolicyViolation)) }

// Left is how much time a client has. At is what the rule's has been expanded to. No time
// without an error means for ever.
func (r *Rule) Left(at string, now time.Time) (time.Duration, *Error) {
	t, err := Parse(at, now)
	switch left := t.Sub(now); {
	case errors.Is(err, ErrMissing) && r.Optional:
		return 0, nil
	case errors.Is(err, ErrMissing):
		return 0, &Error{Missing, challenge, fmt.Errorf("expires %s %w", r.At, err)}
	case err != nil:
		// The value is not shown, as it may be a token by mistake.
		return 0, &Error{Bad, "", fmt.Errorf("the value of expires %s %w", r.At, err)}
	case left <= 0:
		return 0, &Error{Past, challenge + expired, fmt.Errorf("what the client has come with has expired %s ago",
			(-left).Round(time.Millisecond))}
	default:
		return left, nil
	}
}

// The challenges of those who may try again with another token (RFC 6750 section 3.1).
const (
	challenge = "Bearer"
	expired   = ` error="invalid_token", error_description="The token has expired"`
)

// Fault is why a client gets no time.
type Fault int

// The faults.
const (
	Past    Fault = iota // it has expired
	Missing              // nothing says when it expires
	Bad                  // what says that is no time
)

// Error says why a client gets no time.
type Error struct {
	Fault Fault
	// Challenge is for WWW-Authenticate, if other credentials may help.
	Challenge string
	Err       error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// CheckText reports what is wrong with a time that is written in a configuration, unless
// it has a placeholder.
func CheckText(s string, now time.Time) error {
	if strings.Contains(s, "{") {
		return nil
	}
	_, err := Parse(s, now)
	if d, isDuration := parseDuration(strings.TrimSpace(s)); err == nil && isDuration == nil && d <= 0 {
		return errors.New("is a duration that has passed already")
	}
	return err
}
