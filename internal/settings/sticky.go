package settings

import (
	"errors"
	"fmt"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
)

// checkSticky refuses what makes no sense with a sticky policy, or only with one.
func (lb *LoadBalancing) checkSticky(own *OwnPolicy) error {
	moves := lb.Rebalance != nil && lb.Rebalance.Share > 0
	for i := range lb.StickySession {
		if err := lb.StickySession[i].Check(); err != nil {
			return fmt.Errorf("load_balancing.sticky_session[%d]: %w", i, err)
		}
	}
	switch {
	case own.Sticky == nil && lb.StickySession != nil:
		return fmt.Errorf("load_balancing.sticky_session: has no effect with %s, which is not sticky; "+
			"use cookie or another sticky policy, or leave it out", own.By)
	case own.Sticky == nil || !moves:
	case own.By != sticky.Cookie || own.Sticky.Next != nil:
		return fmt.Errorf("load_balancing.rebalance: has no effect with %s, which sends clients straight back; "+
			"use cookie or a policy that is not sticky, or leave it out", own.By)
	case lb.StickySession == nil:
		return errors.New("load_balancing.rebalance: needs to know which clients of a cookie can be moved; " +
			"say in sticky_session what opens a session, such as query !sid")
	}
	return nil
}

// checkForeign refuses what has no effect with a policy of another module.
func (lb *LoadBalancing) checkForeign(upstreams []*Upstream) error {
	for i, up := range upstreams {
		if up.Weight != 0 {
			return fmt.Errorf("upstreams[%d]: weight: has no effect with this selection policy; "+
				"use a policy of websocket_proxy itself, such as least_conn or cookie, or leave it out", i)
		}
	}
	switch {
	case lb.SlowStart > 0:
		return errors.New("load_balancing.slow_start: has no effect with this selection policy, " +
			"which would send clients somewhere else meanwhile; leave it out")
	case lb.RetryClose > 0:
		return errors.New("load_balancing.retry_close: has no effect with this selection policy, with which nobody waits; leave it out")
	case lb.Queue != nil && lb.Queue.Size >= 0:
		return errors.New("load_balancing.queue: has no effect with this selection policy, " +
			"of which is not known whom it would choose; leave it out")
	case lb.Rebalance != nil && lb.Rebalance.Share > 0:
		return errors.New("load_balancing.rebalance: has no effect with this selection policy, which may send clients " +
			"straight back; use a policy of websocket_proxy itself, such as least_conn, or leave it out")
	case lb.StickySession != nil:
		return errors.New("load_balancing.sticky_session: has no effect with this selection policy; " +
			"use cookie or another sticky policy, or leave it out")
	}
	return nil
}
