package settings

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Upstream is a backend that speaks WebSocket over HTTP/1.1.
type Upstream struct {
	// Network address to dial, as in `reverse_proxy`: `host:port`,
	// `unix//path/to.sock`. It is exactly one socket, so no port range. It may
	// contain placeholders, which are replaced in each handshake.
	Dial string `json:"dial"`

	// Share of the tunnels that this upstream gets, relative to the others, up
	// to 65536. It has no meaning for a selection policy of another module and
	// is refused there. Default: 1.
	Weight int `json:"weight,omitempty"`

	// Most tunnels that may be open to this upstream at a time, from all
	// handlers and configurations of the process together. When all upstreams
	// are at this limit, or at one for handshakes, the others wait, see
	// `load_balancing.queue`. A negative value means no limit. Default: `load_balancing.max_tunnels`.
	MaxTunnels int `json:"max_tunnels,omitempty"`

	// Most handshakes that may be under way at this upstream at a time, from all handlers
	// and configurations of the process together, as handshakes are what kills an upstream
	// to which everybody comes back at once. A handshake is under way until the upstream has
	// answered; tunnels do not count. `"auto"` finds out how many it does best at a time. A
	// negative value means no limit. Default: `load_balancing.max_handshakes`.
	MaxHandshakes HandshakeLimit `json:"max_handshakes,omitempty"`

	// How many handshakes may begin at this upstream in a second, from all handlers and
	// configurations of the process together. Default: `load_balancing.handshake_rate`.
	HandshakeRate *HandshakeRate `json:"handshake_rate,omitempty"`

	// If true, the upstream is chosen only when no other one is available.
	// Default: false.
	Backup bool `json:"backup,omitempty"`
}

// Check reports what is wrong with the upstream.
func (up *Upstream) Check() error {
	switch {
	case up == nil || up.Dial == "":
		return errors.New("dial: is empty; give an address such as localhost:9000")
	case strings.Contains(up.Dial, "://"):
		return fmt.Errorf("dial: %s is a URL; write host:port, and enable TLS in the transport", up.Dial)
	case up.Weight < 0 || up.Weight > upstream.MaxWeight:
		return fmt.Errorf("weight: %d is not between 1 and %d", up.Weight, upstream.MaxWeight)
	}
	if err := cmp.Or(up.MaxHandshakes.check(), up.HandshakeRate.check()); err != nil {
		return err
	}
	switch {
	case strings.Contains(up.Dial, "{"):
		return nil // it is known in a handshake only
	}
	if _, err := ParseAddress(up.Dial); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	return nil
}

// LoadBalancing says how an upstream is chosen for a new tunnel.
type LoadBalancing struct {
	// Policy that chooses among the available upstreams. `least_conn` (fewest
	// live tunnels, ties broken at random), `round_robin`,
	// `weighted_round_robin` and `random_choose` are this module's own and
	// respect weights. So are the sticky ones: `cookie`, `header`, `query`, `ip_hash`,
	// `client_ip_hash` and `uri_hash`, with the options and cookies that they have in
	// `reverse_proxy`. They send clients where they belong; newcomers go by the
	// `fallback`, which is `least_conn` by default, another one of those above, `random`
	// or `first`. `hash` sends all handshakes with the same `key`, a text with
	// placeholders, to the same upstream. Its `balance` is how many percent of its fair
	// share an upstream may have before it gets no new keys, 100 to 10000, default: no
	// bound; `fallback` is the policy for those whose key is empty, default: least_conn.
	// Any other name is a module of this namespace, as in `reverse_proxy`. Default:
	// least_conn.
	SelectionPolicyRaw json.RawMessage `json:"selection_policy,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	// How often a handshake is tried again, each time on an upstream that was
	// not tried yet, after a dial that failed, a connection that was closed
	// before one byte of an answer, or one of `retry_status`. `0` means never. If `try_duration` is set,
	// the default is no limit. Default: 2.
	Retries *int `json:"retries,omitempty"`

	// Statuses of answers that are kept back while other upstreams are asked:
	// 400 to 599, or 4 and 5 for all of a class. Each counts as one of `retries`,
	// and within `try_duration`. If no upstream has a better one, the client gets the
	// last answer, whole. Nothing is held against an upstream for it. Default: none.
	RetryStatus []int `json:"retry_status,omitempty"`

	// How long to go on trying when no upstream is available or all of them
	// have failed, not counting the time in the queue. An attempt that has begun
	// goes on beyond it. Default: 0, give up at once.
	TryDuration caddy.Duration `json:"try_duration,omitempty"`

	// How long to wait before starting over with all upstreams while
	// `try_duration` lasts. Default: 250ms.
	TryInterval caddy.Duration `json:"try_interval,omitempty"`

	// How long an upstream that has come to the pool by a reload or by discovery,
	// has recovered, or is ready again after an operator has taken it out, is
	// started slowly: it takes part in a choice with a probability that grows from
	// 0 to 1 over this time, unless there is no other. Those that are there when
	// the process starts, are not, and handshakes with a key of `hash` go by that alone. From a second to a day; refused with policies of
	// other modules, which would send clients somewhere else meanwhile. A negative
	// value means off.
	// Default: 0, off.
	SlowStart caddy.Duration `json:"slow_start,omitempty"`

	// Most tunnels for each upstream that has no `max_tunnels` of its own. A
	// negative value means no limit. Default: no limit.
	MaxTunnels int `json:"max_tunnels,omitempty"`

	// Most handshakes under way at each upstream that has no `max_handshakes` of its own, or
	// `"auto"`. A negative value means no limit. Default: no limit.
	MaxHandshakes HandshakeLimit `json:"max_handshakes,omitempty"`

	// How many handshakes may begin in a second at each upstream that has no
	// `handshake_rate` of its own. Default: no limit.
	HandshakeRate *HandshakeRate `json:"handshake_rate,omitempty"`

	// How handshakes wait while all upstreams are at one of these limits. With
	// selection policies of other modules nobody waits, as it is not known whom they would
	// choose.
	Queue *Queue `json:"queue,omitempty"`

	// Most handshakes of this handler at a time that are refused by a Close, in the place of
	// 503, as they are not served from the queue: scripts in browsers see no status. They are
	// accepted, held for 1 to 10 seconds and closed with 1013 (try again later). They count as
	// refused. Handlers of one `name` count together, and who is held over a reload counts on.
	// The others get 503, and of one client a tenth, or 100. A negative value means off.
	// Default: 0, off.
	RetryClose int `json:"retry_close,omitempty"`

	// Has newcomers go by the load that upstreams report. Refused with policies of other
	// modules, and with `rebalance`, which would send tunnels back where they come from.
	// Default: none.
	LoadReport *told.LoadReport `json:"load_report,omitempty"`

	// Has tunnels moved to upstreams that have fewer than their share because
	// they have just come. It works with this module's own policies, with `cookie` if
	// `sticky_session` says which clients may be moved, and is refused with others, which
	// send clients straight back.
	Rebalance *Rebalance `json:"rebalance,omitempty"`

	// Which requests open a session, for a sticky policy: one for each way. Any other
	// request belongs to a session that is under way, and cannot go on elsewhere. Without
	// any, a session may be under way while clients of the same address (IPv6: /64) have a
	// handshake or a tunnel at the upstream, and for 60 seconds after their last request, as
	// far as this process knows. Default: none.
	StickySession []sticky.Opening `json:"sticky_session,omitempty"`
}

// Queue bounds the handshakes that wait for a place, as all upstreams that they could go
// to are at `max_tunnels`, `max_handshakes` or `handshake_rate`. Clients are served in turn, each in
// the order in which its handshakes have come. If the queue is full, the newest of the
// client with the most goes. Those that are not served get 503 with a Retry-After by which
// they come one after another.
type Queue struct {
	// Most handshakes that wait. A negative value means that none does: they get
	// 503 at once, or try again as `try_duration` says. Default: 1000.
	Size int `json:"size,omitempty"`

	// How long each may wait, in all its tries together. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// Rebalance has tunnels closed, with the status of `drain.close_code`, so that
// their clients come back and are balanced anew: when a reload or a source has
// added an upstream to the pool, or when one gets newcomers again after it was in
// `drain`, `maint` or `evict`, down or failing. It begins when the slow start is over, and
// for an upstream that has recovered, an interval after that. In each interval
// some are closed at the upstreams that have the most for their weight, those of
// the longest idle tunnels first, until all upstreams are level within 10 %, a
// step has not made it better, or 20 were made.
//
// What counts are the tunnels of all handlers, as for the policies; only those
// of this handler are closed. Handlers of earlier configurations are the same
// one if they have the same name and at least one common upstream; where there
// are several, the most similar one is. Upstreams that an operator has taken out
// (`drain`, too), that are down or failing, or depend on the request, take no part; on backups stays what no
// other upstream has a place for.
type Rebalance struct {
	// Part of the tunnels that are where they should not be, between 0 and 1,
	// that is closed in each interval, rounded up. It is a part of the most that
	// there were since the upstream has come, so with 0.1 there are about ten
	// steps. A negative value means that none are closed.
	// Default: 0, no rebalancing.
	Share float64 `json:"share,omitempty"`

	// Time from one step to the next, at least a second. The Close frames are
	// spread over the first half of it; in the other half, clients should have
	// come back. Refused without `share`. Default: 10s.
	Interval caddy.Duration `json:"interval,omitempty"`
}

// CheckUpstreams reports what is wrong with the upstreams; isDynamic means that there
// are sources of more.
func CheckUpstreams(upstreams []*Upstream, isDynamic bool) error {
	if len(upstreams) == 0 && !isDynamic {
		return errors.New("upstreams: none given; at least one is needed, or dynamic_upstreams")
	}
	for i, up := range upstreams {
		if err := up.Check(); err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	return nil
}

// CheckBalancing reports what is wrong with the balancing of these upstreams;
// isDynamic means that there are sources of more.
func CheckBalancing(lb *LoadBalancing, upstreams []*Upstream, isDynamic bool) error {
	if _, err := NewRetry(lb); err != nil {
		return err
	}
	if _, err := NewQueueLimits(lb.Queue); err != nil {
		return err
	}
	switch {
	case lb.SlowStart > 0 && lb.SlowStart < caddy.Duration(time.Second):
		return errors.New("load_balancing.slow_start: is shorter than a second")
	case lb.SlowStart > caddy.Duration(longestSlowStart):
		return fmt.Errorf("load_balancing.slow_start: is longer than %v", longestSlowStart)
	}
	if err := cmp.Or(lb.MaxHandshakes.check(), lb.HandshakeRate.check()); err != nil {
		return fmt.Errorf("load_balancing.%w", err)
	}
	if lb.RetryClose > 0 && lb.Queue != nil && lb.Queue.Size < 0 {
		return errors.New("load_balancing.retry_close: has no effect without a queue; set that too, or leave it out")
	}
	if err := lb.Rebalance.check(); err != nil {
		return err
	}
	own, err := lb.OwnPolicy()
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if lb.LoadReport != nil {
		if err := lb.LoadReport.Check(own != nil, lb.Rebalance != nil && lb.Rebalance.Share > 0); err != nil {
			return fmt.Errorf("load_balancing.load_report%w", err)
		}
	}
	switch {
	case own == nil:
		return lb.checkForeign(upstreams)
	case own.Policy == Hash && lb.LoadReport != nil:
		return errors.New("load_balancing.load_report: has no effect on handshakes that go by a key; " +
			"leave it out, or use least_conn")
	case own.Weights != nil && isDynamic:
		err = errors.New("weights: are by position, which dynamic upstreams do not have; use least_conn or round_robin")
	default:
		err = own.check(upstreams)
	}
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if err := lb.checkSticky(own); err != nil {
		return err
	}
	return own.checkWeights(upstreams)
}

// check reports what is wrong with the settings.
func (r *Rebalance) check() error {
	switch {
	case r == nil:
	case !(r.Share <= 1): // NaN too
		return fmt.Errorf("load_balancing.rebalance.share: %v is more than 1", r.Share)
	case r.Interval < 0:
		return errors.New("load_balancing.rebalance.interval: must not be negative")
	case r.Share <= 0 && r.Interval != 0:
		return errors.New("load_balancing.rebalance.interval: has no effect without share; set that too")
	case r.Interval != 0 && r.Interval < caddy.Duration(time.Second):
		return errors.New("load_balancing.rebalance.interval: is shorter than a second")
	}
	return nil
}

// Slot makes the upstream's place in a pool, in which upstreams have this weight, or none,
// and the pool's limits, if they do not say it themselves.
func (up *Upstream) Slot(p *upstream.Pool, weight int) *upstream.Server {
	maxTunnels := p.MaxTunnels
	if up.MaxTunnels != 0 {
		maxTunnels = up.MaxTunnels
	}
	return &upstream.Server{
		Weight:        max(weight, DefaultWeight),
		MaxTunnels:    maxTunnels,
		MaxHandshakes: up.MaxHandshakes.forUpstream(p.MaxHandshakes),
		HandshakeRate: up.HandshakeRate.forUpstream(p.HandshakeRate),
		Backup:        up.Backup,
		Dial:          up.Dial,
		Known:         guest.NewUpstream(up.Dial),
	}
}

// AddTo puts an upstream into a pool. Without a weight, that is the default.
func AddTo(p *upstream.Pool, up *Upstream, weight int) error {
	s := up.Slot(p, weight)
	if strings.Contains(up.Dial, "{") {
		p.AddTemplate(s, up.Dial)
		return nil
	}
	a, err := ParseAddress(up.Dial)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	p.AddFixed(s, a)
	return nil
}
