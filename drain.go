package websocketproxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Drain says how tunnels end when the proxy ends them, so that their clients
// come back neither all at once nor to the wrong place.
type Drain struct {
	// Time over which tunnels are ended when a reload has removed their
	// upstream, or when an operator has it emptied and gives no other time. Each
	// client is sent a Close frame, at a random moment of its part of the time,
	// those of the longest idle tunnels first. A tunnel keeps the value that it
	// was opened with. A negative value means that removed upstreams keep their
	// tunnels. Default: 30s.
	EvictPeriod caddy.Duration `json:"evict_period,omitempty"`

	// Time after which nothing is left of any tunnel when the process exits.
	// The clients are sent Close frames with status 1001 in the first half of
	// it, or up to two seconds before its end if that is later. Of the tunnels
	// that are open, the longest time counts. HTTP/3 servers of which a request has
	// come to a handler are closed at the end of it too, as they would wait for
	// clients that leave their connection open. At least a second. Supervisors
	// have to wait longer than that: Caddy's systemd unit kills after 5 seconds.
	// Default: 4s.
	ShutdownPeriod caddy.Duration `json:"shutdown_period,omitempty"`

	// Status of the Close frames that ask clients to connect again, elsewhere:
	// one that RFC 6455 section 7.4 or its registry allows in a frame, or 3000
	// to 4999. 1012 says that the service restarts. Default: 1012.
	CloseCode int `json:"close_code,omitempty"`

	// Text of these Close frames, up to 123 bytes. Default: none.
	CloseReason string `json:"close_reason,omitempty"`
}

// check reports what is wrong with the values.
func (d *Drain) check() error {
	if d == nil {
		return nil
	}
	if d.ShutdownPeriod != 0 && d.ShutdownPeriod < caddy.Duration(time.Second) {
		return errors.New("drain.shutdown_period: is shorter than a second")
	}
	if d.CloseCode != 0 {
		if problem := frame.CloseCodeProblem(d.CloseCode); problem != "" {
			return fmt.Errorf("drain.close_code: %s", problem)
		}
	}
	if problem := frame.CloseReasonProblem(d.CloseReason); problem != "" {
		return fmt.Errorf("drain.close_reason: %s", problem)
	}
	return nil
}

// apply makes a policy of the values.
func (d *Drain) apply(t *tunnel.Options, p *leasePolicy) {
	t.Shutdown = orDefault(d.ShutdownPeriod, defaultShutdownPeriod)
	p.evict = orDefault(d.EvictPeriod, defaultEvictPeriod)
	p.closeCode, p.closeText = frame.StatusServiceRestart, d.CloseReason
	if d.CloseCode != 0 {
		p.closeCode = uint16(d.CloseCode)
	}
}
