package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

// stormCap is how many times the ideal a storm may take until it is given up.
const stormCap = 4

// stormWhole is what all upstreams together do in a second.
const stormWhole = stormRate * backendCount

// Peers of a storm, beside ourName, whose limit is auto.
const (
	bestName         = "best number"
	unlimitedName    = "no limit"
	nginxName        = "nginx"
	tunedNginxName   = "nginx, tuned"
	tunedHAProxyName = "HAProxy, tuned"
)

// stormDirective is the module with a queue for everybody, and lines of a limit.
const stormDirective = "websocket_proxy {{join .Upstreams}} {\n\t\tqueue 10000 60s%s\n\t}"

// stormPeers lists all that a storm is tried with. nginx and HAProxy have the limit that
// their manuals show, with the rate that the upstreams are known to have; tuned, they have
// numbers that somebody found who could try until nothing fails.
func stormPeers(o options) []peer {
	ours := func(name, limit string) peer {
		return caddyPeer(name, o.caddy, fmt.Sprintf(stormDirective, limit))
	}
	var nginx, haproxy peer
	for _, p := range allPeers(o) {
		switch p.name {
		case nginxName:
			nginx = p
		case haproxyName:
			haproxy = p
		}
	}
	limited := func(p peer, name string, rate, burst int) peer {
		p.name, p.rate, p.burst = name, rate, burst
		return p
	}
	return []peer{
		ours(ourName, "\n\t\tmax_handshakes auto"),
		ours(bestName, fmt.Sprintf("\n\t\tmax_handshakes {{share %d}}", stormBest)),
		ours(unlimitedName, ""),
		limited(nginx, nginxName, stormWhole, stormWhole),
		limited(nginx, tunedNginxName, stormWhole*3/4, maxTunnels),
		limited(haproxy, haproxyName, stormWhole, 0),
		limited(haproxy, tunedHAProxyName, stormWhole*9/20, 0),
	}
}

// stormMeasurements are about so many clients that come at once.
func stormMeasurements(clients int) []measurement {
	var list []measurement
	for proxies := 1; proxies <= 2; proxies++ {
		name := fmt.Sprintf("storm of %s, %d proxies: ", formatCount(clients), proxies)
		name = strings.Replace(name, "1 proxies", "1 proxy", 1)
		list = append(list, measurement{
			proxies: proxies,
			rows: []row{
				{name + "until the last has a tunnel", "× ideal"},
				{name + "failed handshakes", ""},
				{name + "p99 wait", "s"},
			},
			run: func(ctx context.Context, s subject) ([]float64, error) {
				return measureStorm(ctx, s, clients, proxies)
			},
		})
	}
	return list
}

// measureStorm returns how long a storm takes, how many handshakes fail, and how long
// clients wait.
func measureStorm(ctx context.Context, s subject, clients, proxies int) ([]float64, error) {
	addrs := []string{s.addr}
	for range proxies - 1 {
		another, err := s.again(ctx)
		if err != nil {
			return nil, err
		}
		defer another.stop()
		addrs = append(addrs, another.plain.addr)
	}
	if err := sleep(ctx, teardown); err != nil {
		return nil, err
	}
	ideal := time.Duration(float64(clients) / stormWhole * float64(time.Second))
	outcome, err := storm(ctx, addrs, clients, stormCap*ideal)
	if err != nil {
		return nil, err
	}
	values := outcome.values(clients, ideal)
	fmt.Fprintf(os.Stderr, "%s: %.2f times the ideal, %.0f failed, p99 %.1f s\n", s.name, values[0], values[1], values[2])
	if outcome.failure != nil {
		fmt.Fprintf(os.Stderr, "%s: the first failure: %v\n", s.name, outcome.failure)
	}
	if served := len(outcome.waits); served < clients {
		err = &unservedError{served: served, clients: clients, proxies: proxies}
	}
	return values, err
}

// values are those of the rows. Who has no tunnel in the end has waited until then.
func (o stormOutcome) values(clients int, ideal time.Duration) []float64 {
	last, p99 := stormCap*ideal, stormCap*ideal
	if len(o.waits) == clients {
		last = o.waits[clients-1]
	}
	if rank := int(math.Ceil(0.99*float64(clients))) - 1; rank < len(o.waits) {
		p99 = o.waits[rank]
	}
	return []float64{last.Seconds() / ideal.Seconds(), float64(o.failed), p99.Seconds()}
}

// unservedError says that a storm was not over when it was given up.
type unservedError struct{ served, clients, proxies int }

func (e *unservedError) Error() string {
	return fmt.Sprintf("(proxies: %d) had tunnels for %s of %s clients after %d times the ideal", e.proxies,
		formatCount(e.served), formatCount(e.clients), stormCap)
}

// stormFooter tells what the table is about.
func (r *runner) stormFooter() string {
	ideal := float64(r.storm) / stormWhole
	return fmt.Sprintf("%s clients come at once and come back when they fail; ideal are %.3g s. Given up after %d times that.\n"+
		"Less is better; ratio is %s, with max_handshakes auto, to the peer on its left.\n",
		formatCount(r.storm), ideal, stormCap, ourName)
}
