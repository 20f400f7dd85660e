package settings

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// HandshakeLimit is a number of handshakes, or `"auto"` for one that is found out. A
// negative number means no limit.
type HandshakeLimit int

// AutoHandshakes is the limit that is found out, and badHandshakes one that is none, which
// is refused where its path is known.
const (
	AutoHandshakes HandshakeLimit = -2
	badHandshakes  HandshakeLimit = -3
)

// UnmarshalJSON takes a number or "auto".
func (l *HandshakeLimit) UnmarshalJSON(b []byte) error {
	if string(b) == `"auto"` {
		*l = AutoHandshakes
		return nil
	}
	n := 0
	if err := json.Unmarshal(b, &n); err != nil {
		*l = badHandshakes
		return nil //nolint:nilerr // check says it, with the path
	}
	*l = HandshakeLimit(max(n, -1))
	return nil
}

// check reports what is wrong with a limit.
func (l HandshakeLimit) check() error {
	if l == badHandshakes {
		return errors.New(`max_handshakes: is neither a number nor "auto"`)
	}
	return nil
}

// MarshalJSON makes of l what UnmarshalJSON takes.
func (l HandshakeLimit) MarshalJSON() ([]byte, error) {
	if l == AutoHandshakes {
		return []byte(`"auto"`), nil
	}
	return json.Marshal(int(l))
}

// forUpstream is what l means there; or is for where it says nothing.
func (l HandshakeLimit) forUpstream(or int) int {
	switch l {
	case 0:
		return or
	case AutoHandshakes:
		return upstream.AutoHandshakes
	}
	return max(0, int(l))
}

// HandshakeRate is how many handshakes an upstream gets in a second.
type HandshakeRate struct {
	// Handshakes in a second, up to 1,000,000. A negative value means no limit.
	PerSecond int `json:"per_second"`

	// Handshakes that may begin at once if there were few before, up to 1,000,000. Refused
	// without a limit. Default: a tenth of the rate, at least 1.
	Burst int `json:"burst,omitempty"`
}

// MostHandshakeRate bounds both numbers of a rate.
const MostHandshakeRate = 1_000_000

// check reports what is wrong with a rate.
func (r *HandshakeRate) check() error {
	switch {
	case r == nil:
	case r.PerSecond == 0:
		return errors.New("handshake_rate.per_second: is missing; say how many, or -1 for no limit")
	case r.PerSecond > MostHandshakeRate:
		return fmt.Errorf("handshake_rate.per_second: %d is more than %d", r.PerSecond, MostHandshakeRate)
	case r.Burst < 0:
		return errors.New("handshake_rate.burst: must not be negative; leave it out for a tenth of per_second")
	case r.Burst > MostHandshakeRate:
		return fmt.Errorf("handshake_rate.burst: %d is more than %d", r.Burst, MostHandshakeRate)
	case r.PerSecond < 0 && r.Burst > 0:
		return errors.New("handshake_rate.burst: has no effect without a limit; set per_second too")
	}
	return nil
}

// forUpstream is what r means there; or is for where it says nothing.
func (r *HandshakeRate) forUpstream(or upstream.HandshakeRate) upstream.HandshakeRate {
	switch {
	case r == nil:
		return or
	case r.PerSecond < 0:
		return upstream.HandshakeRate{}
	case r.Burst == 0:
		return upstream.HandshakeRate{PerSecond: float64(r.PerSecond), Burst: max(1, r.PerSecond/10)}
	}
	return upstream.HandshakeRate{PerSecond: float64(r.PerSecond), Burst: r.Burst}
}

// SetLimits sets what holds for upstreams of a pool that say nothing themselves.
func (lb *LoadBalancing) SetLimits(p *upstream.Pool) {
	p.MaxTunnels = lb.MaxTunnels
	p.MaxHandshakes = lb.MaxHandshakes.forUpstream(0)
	p.HandshakeRate = lb.HandshakeRate.forUpstream(upstream.HandshakeRate{})
}
