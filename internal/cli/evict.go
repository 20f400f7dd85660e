package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// countInterval is how often evict looks how many tunnels are left.
const countInterval = 200 * time.Millisecond

// awaitEmpty shows how many tunnels an upstream has left until there is none, or
// somebody has changed its state. The end does not wait for a node that does not answer
// any more, but says so.
func (c *console) awaitEmpty(r *replies[admin.StateAnswer]) error {
	p := countdown{console: c}
	defer p.end()
	var nodes []*node
	latest := make(map[*node]*admin.StateAnswer)
	for _, of := range r.said {
		nodes = append(nodes, of.node)
		latest[of.node] = &of.answer
	}
	failed := r.failed
	for sum := sumOf(r); sum.Tunnels > 0; sum = sumOf(r) {
		if err := p.show(&sum, len(r.said)); err != nil {
			return err
		}
		time.Sleep(countInterval)
		lists := askAll(nodes, (*node).upstreamsThroughReload)
		if len(lists.said) == 0 {
			return c.err(lists.failed)
		}
		r.said, r.failed = nil, slices.Concat(failed, lists.failed)
		for _, of := range lists.said {
			answer := latest[of.node]
			if err := update(answer, of.answer); err != nil {
				return c.at(of.node, err)
			}
			r.add(of.node, *answer, nil)
		}
	}
	p.end()
	return c.printStates(r, func(u *admin.Upstream) string { return printable.Text(u.Address) + " is empty" })
}

// update finds the upstream of an answer in a newer list. One that is neither
// configured nor has tunnels may be missing.
func update(a *admin.StateAnswer, list []admin.Upstream) error {
	for _, u := range list {
		if u.Address != a.Address {
			continue
		}
		if u.State != upstream.Evict {
			return fmt.Errorf("%s is not being emptied any more: its state is %s, and %d are left",
				printable.Text(u.Address), printable.Text(u.State), u.Tunnels)
		}
		a.Upstream = u
		return nil
	}
	a.Tunnels = 0
	return nil
}

// countdown shows a number that changes: in one line of a terminal, else in a
// line for each change, and not at all to programs.
type countdown struct {
	*console

	last int // what was shown last, or 0
}

// show shows an upstream with the tunnels that it has at so many nodes.
func (p *countdown) show(u *admin.Upstream, nodes int) error {
	if p.json || u.Tunnels == p.last {
		return nil
	}
	p.last = u.Tunnels
	format := "%s\n"
	if p.terminal {
		format = "\r\x1b[K%s"
	}
	_, err := fmt.Fprintf(p.out, format, sayState(u)+p.atNodes(nodes))
	return err
}

// end leaves the line.
func (p *countdown) end() {
	if p.terminal && !p.json && p.last > 0 {
		_, _ = fmt.Fprintln(p.out) // what follows fails, too
		p.last = 0
	}
}
