// Package told is what upstreams tell of themselves, as it is configured: the check that
// asks their agents, and reports of load. It says what is wrong with such a configuration,
// and makes of it what goes by it. It has no lock, and knows nothing of handlers.
package told

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/orca"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Agent has the agent of each upstream asked, again and again: a small server beside it
// that answers each connection with one line about how the upstream is. It is HAProxy's
// `agent-check`, with the same words.
//
// An agent stands beside an active check. What it says can only take away what the check
// and operators allow: `up` and `ready` cancel what the agent has said itself, and nothing
// else. It never ends tunnels. What it has said holds until it says something else, or
// three answers in a row have not come.
//
// Handlers and configurations that ask in the same way, with the same transport, share
// what was said. The agents of upstreams whose address has placeholders are not asked.
type Agent struct {
	// Port of the agents, at the host of each upstream, from 1 to 65535, which are asked
	// without TLS and without the PROXY protocol. Needed.
	Port int `json:"port,omitempty"`

	// Time from the start of one question to the start of the next, a tenth more or less
	// at random. At least a millisecond. Default: 2s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// How long an answer may take, from dialing to the end of its line. At least a
	// millisecond. Default: 2s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Text that the agent gets, with Caddy's global placeholders and
	// `{http.reverse_proxy.active.target_upstream}`, which says which upstream is meant.
	// Default: none.
	Send string `json:"send,omitempty"`
}

// LoadReport has newcomers go to the upstream that will be least loaded with one more
// tunnel, by what upstreams report in the header of answers to handshakes and to active
// checks: ORCA, in the fields `endpoint-load-metrics` and `endpoint-load-metrics-bin`.
//
// What is expected of an upstream is what it has reported, times the tunnels that it has
// with one more, divided by those that it had then. In the first 10 seconds its reports are
// not used, nor is one that is older than 3 minutes; those of 0 and less are none. Who
// reports nothing keeps its configured share, and nobody gets less than an eighth or
// more than 8 times of that. Tunnels that are there stay.
type LoadReport struct {
	// Metrics of a report of which the largest counts: `application_utilization`,
	// `cpu_utilization`, `mem_utilization`, and those of applications, such as
	// `named_metrics.rooms` and `utilization.disk`. Default: application_utilization, and
	// cpu_utilization where that is not more than 0.
	Metrics []string `json:"metrics,omitempty"`
}

const (
	defaultInterval = 2 * time.Second
	defaultTimeout  = 2 * time.Second
)

// Problem is what is wrong with the configuration of an agent, and its field in JSON.
func (a *Agent) Problem() (field, text string) {
	switch {
	case a.Port == 0:
		return "port", "is needed: that of the agent, at the host of each upstream"
	case a.Port < 0 || a.Port > 65535:
		return "port", fmt.Sprintf("%d is not between 1 and 65535", a.Port)
	}
	return TimesProblem(a.Interval, a.Timeout)
}

// TimesProblem is what is wrong with how often something is asked and how long it may take to
// answer; zero stands for the default. A number without a unit is rather meant to be seconds.
func TimesProblem(interval, timeout caddy.Duration) (field, text string) {
	const shortest = caddy.Duration(time.Millisecond)
	switch negative, tooShort := "must not be negative", "is shorter than a millisecond"; {
	case interval < 0:
		return "interval", negative
	case timeout < 0:
		return "timeout", negative
	case interval != 0 && interval < shortest:
		return "interval", tooShort
	case timeout != 0 && timeout < shortest:
		return "timeout", tooShort
	}
	return "", ""
}

// Target is the address of the agent of an upstream.
func (a *Agent) Target(of upstream.Address) (upstream.Address, error) { return of.AtPort(a.Port) }

// withDefaults returns the settings with their defaults filled in.
func (a *Agent) withDefaults() Agent {
	full := *a
	full.Interval = cmp.Or(a.Interval, caddy.Duration(defaultInterval))
	full.Timeout = cmp.Or(a.Timeout, caddy.Duration(defaultTimeout))
	return full
}

// Check says what is wrong, after the path of the configuration in JSON: with its metrics,
// or with what stands beside it, another module's policy or rebalancing.
func (l *LoadReport) Check(isOwnPolicy, rebalances bool) error {
	switch {
	case !isOwnPolicy:
		return errors.New(": has no effect with a selection policy of another module; leave one of them out")
	case rebalances:
		return errors.New(": and rebalance contradict each other, as that moves tunnels by the configured weights; " +
			"leave one of them out")
	}
	if _, err := orca.NewReader(l.Metrics...); err != nil {
		return fmt.Errorf(".metrics: %w", err)
	}
	return nil
}
