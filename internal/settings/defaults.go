// Package settings is what a configuration says of upstreams, balancing and health
// checks: the types of its JSON, their mistakes, their defaults, and what they mean to
// the packages that do it. It knows the addresses, policies and checks of those and
// Caddy's types, nothing of handlers, and has no locks.
package settings

import (
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The defaults of balancing and of passive checks. Zero in the configuration means
// these, a negative value means off.
const (
	DefaultRetries           = 2
	DefaultTryInterval       = 250 * time.Millisecond
	DefaultWeight            = 1
	DefaultChoices           = 2
	DefaultRebalanceInterval = 10 * time.Second
	DefaultQueueSize         = 1000
	DefaultQueueTimeout      = 5 * time.Second
	DefaultFailDuration      = 10 * time.Second
	DefaultMaxFails          = 3
	longestSlowStart         = 24 * time.Hour // in milliseconds it has to fit into 32 bits
)

// OrDefault applies "zero means the default, negative means off", where off is
// zero for the code that uses the value.
func OrDefault(d caddy.Duration, def time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return 0
	}
	return time.Duration(d)
}
