package websocketproxy

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
)

// causes are all of them, by the class of the status that clients get.
var causes = map[string][]cause{
	"4xx": {
		causeNotWebSocket, causeConnect, causeMethod, causeMalformed, causeVersion, causeOrigin, causeSubprotocol,
		causeClientLimit, causeExpired, causeNoExpiry, causeUpstreamRefused,
	},
	"499": {causeClientGone},
	"5xx": append([]cause{
		causeConnect, causeBadAddress, causeBadExpiry, causeNoUpstream, causeQueueFull, causeQueueTimeout, causeUpstreamFull, causeShutdown, causeInternal,
	}, upstreamCauses...),
}

// upstreamCauses are those of failures at an upstream.
var upstreamCauses = []cause{
	causeDialFailed, causeDialTimeout, causeTLSFailed, causeClosed, causeBadAnswer, causeHandshakeTimeout, causeExhausted,
	causeUpstreamRefused,
}

// newMetrics makes the metrics of a process.
func (p *processWide) newMetrics() *metrics.Metrics {
	words := metrics.Words{Causes: make(map[string][]string)}
	for class, all := range causes {
		for _, why := range all {
			words.Causes[string(why)] = append(words.Causes[string(why)], class)
		}
	}
	for _, why := range upstreamCauses {
		words.Attempts = append(words.Attempts, string(why))
	}
	return metrics.New(words, time.Now, p.events.Dropped, func() {
		p.logs.newest().Warn("there are too many upstreams for metrics of each; those of further ones have the label _other")
	})
}

// showMetrics has the registry of a configuration show the metrics. Each configuration
// has a new one, which the admin endpoint serves even if the configuration fails.
func showMetrics(ctx caddy.Context) error {
	return process.metrics.Register(ctx.GetMetricsRegistry())
}

// startMetrics tells that the handler's configuration is in force.
func (h *Handler) startMetrics() {
	h.counted = process.metrics.Start(h.Name, h.pool.Queue.Size, func() []metrics.Standing {
		return metrics.StandingsOf(h.pool, h.sources.Asked())
	})
}

// begin counts the handshake as one under way.
func (a *account) begin() {
	a.counts.InProgress.Add(1)
	a.underWay = true
}

// settle ends that, and returns how it has gone.
func (a *account) settle() metrics.Course {
	if a.underWay {
		a.counts.InProgress.Add(-1)
		a.underWay = false
	}
	return metrics.Course{
		Protocol: a.protocol, Took: time.Since(a.began), Queued: a.queued, GaveUp: a.gaveUp, Retries: a.retries,
	}
}

// abandon counts the handshake if it has come to no end, as somebody's code has panicked.
func (a *account) abandon() {
	if a.underWay {
		a.counts.Abandoned(a.settle())
		a.trace.Refused(string(causeInternal), http.StatusInternalServerError)
	}
}

// attempted counts an attempt, of which has come an answer or a refusal.
func (a *account) attempted(c picked, answered *answer, refused *refusal) {
	var why cause
	switch {
	case refused != nil:
		why = refused.cause
	case answered == nil: // somebody's code has panicked
		why = causeInternal
	case !answered.opens():
		why = causeUpstreamRefused
	}
	a.counts.Attempted(c.Endpoint.Spelling(), a.upstreamTook, string(why))
}
