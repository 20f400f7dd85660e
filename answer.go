package websocketproxy

import (
	"fmt"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
)

// answer is what an upstream said to a handshake, and the place there.
type answer struct {
	*dial.Answer

	choice picked
	took   time.Duration
	counts *metrics.Handler
	// taken tells that a tunnel has the connection, and the place at the upstream,
	// and left that the place is given back.
	taken, left bool
}

// opens reports whether it opens a tunnel.
func (a *answer) opens() bool { return a.StatusCode == http.StatusSwitchingProtocols }

// giveBack discards the answer and ends the count of its choice, unless a tunnel
// has taken over both.
func (a *answer) giveBack() {
	if a.taken {
		return
	}
	if a.opens() && !a.left { // another upstream was faster, or the client has gone
		a.counts.GivenUp(a.choice.Endpoint.Spelling())
	}
	a.Discard()
	a.leave()
}

// leave ends the count of the answer's choice.
func (a *answer) leave() {
	if !a.left {
		a.left = true
		a.choice.leave()
	}
}

// refuseAnswered makes the refusal for an upstream's answer that is no 101.
func refuseAnswered(a *answer) *refusal {
	return &refusal{
		cause:    causeUpstreamRefused,
		status:   a.StatusCode,
		err:      fmt.Errorf("the upstream answered %s", a.Status),
		upstream: a.choice.Host.Address,
	}
}
