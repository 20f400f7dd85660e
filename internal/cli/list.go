package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [--tunnels] [--upstream <address>] [--client <ip|cidr>] [--handler <name>] " +
			"[--label <name>=<value>...]",
		Short: "Lists upstreams, or tunnels",
		Long: `
Lists the upstreams with their states and how many tunnels they have.

With --tunnels, or a filter, it lists tunnels: all, or those that match every
filter. PROTO is what the client speaks: h1, h2 or h3, for HTTP/1.1, 2 or 3. IN
and OUT are seen from the client.
`,
	}
	cmd.Flags().Bool("tunnels", false, "List tunnels")
	addFilterFlags(cmd)
	return runs(cmd, func(c *console) (int, error) {
		if err := c.noArguments(); err != nil {
			return 0, err
		}
		list := c.listUpstreams
		if filter := c.filter(); c.flags.Bool("tunnels") || len(filter) > 0 {
			if _, err := filterOf(filter); err != nil {
				return 0, err
			}
			list = func() error { return c.listTunnels(filter) }
		}
		return caddy.ExitCodeSuccess, list()
	})
}

func (c *console) listUpstreams() error {
	r := askAll(c.nodes, (*node).upstreams)
	if len(r.said) > 0 {
		if err := c.printUpstreams(c.upstreamList(r)); err != nil {
			return err
		}
	}
	return c.err(r.failed)
}

// nodeUpstream is an upstream as a node sees it.
type nodeUpstream struct {
	// Node is the node's address, or empty if there is only one.
	Node string `json:"node,omitempty"`
	admin.Upstream
}

// upstreamList is what nodes have said of their upstreams.
type upstreamList struct {
	Upstreams []nodeUpstream `json:"upstreams"`
	// Failed are the nodes that are missing.
	Failed []failure `json:"failed,omitempty"`
}

func (c *console) upstreamList(r *replies[[]admin.Upstream]) upstreamList {
	list := upstreamList{Upstreams: []nodeUpstream{}, Failed: c.failures(r.failed)}
	for _, of := range r.said {
		for _, u := range of.answer {
			list.Upstreams = append(list.Upstreams, nodeUpstream{c.nameOf(of.node), u})
		}
	}
	return list
}

func (c *console) printUpstreams(list upstreamList) error {
	if c.json {
		return c.printJSON(list)
	}
	return writeUpstreams(c.out, list.Upstreams, c.several(), time.Now())
}

// writeUpstreams writes upstreams as a table; if they are of several nodes, with
// these and sums.
func writeUpstreams(out io.Writer, list []nodeUpstream, several bool, now time.Time) error {
	w := newTable(out)
	if several {
		list = append(slices.Clip(list), sumUpstreams(list)...)
		_, _ = fmt.Fprint(w, "NODE\t") // Flush has the error
	}
	tell := slices.ContainsFunc(list, func(u nodeUpstream) bool { return u.Agent != "" || u.Load > 0 })
	limited := slices.ContainsFunc(list, func(u nodeUpstream) bool { return u.HandshakesLimit > 0 })
	_, _ = fmt.Fprint(w, "ADDRESS\tSTATE\tHEALTH\tTUNNELS\tQUEUED\tSINCE\tBY\tEXPIRES")
	if limited {
		_, _ = fmt.Fprint(w, "\tHANDSHAKES")
	}
	if tell {
		_, _ = fmt.Fprint(w, "\tLOAD\tAGENT")
	}
	_, _ = fmt.Fprintln(w)
	for _, u := range list {
		since, by, expires := "-", "-", "-"
		if !u.Since.IsZero() {
			since = brief(now.Sub(u.Since)) + " ago"
		}
		if u.By != "" {
			by = printable.Text(u.By)
		}
		if !u.Expires.IsZero() {
			expires = "in " + brief(u.Expires.Sub(now))
		}
		if several {
			_, _ = fmt.Fprint(w, u.Node+"\t")
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s", printable.Text(u.Address), printable.Text(u.State),
			printable.Text(healthOf(&u.Upstream)), u.Tunnels, u.Queued, since, by, expires)
		if limited {
			_, _ = fmt.Fprint(w, "\t"+handshakesOf(&u.Upstream))
		}
		if tell {
			_, _ = fmt.Fprint(w, toldBy(&u.Upstream))
		}
		_, _ = fmt.Fprintln(w)
	}
	return w.Flush()
}

// handshakesOf is how many handshakes are under way, and how many may be.
func handshakesOf(u *admin.Upstream) string {
	if u.HandshakesLimit == 0 {
		return strconv.Itoa(u.Handshakes)
	}
	return fmt.Sprintf("%d of %d", u.Handshakes, u.HandshakesLimit)
}

// toldBy is what an upstream says of itself.
func toldBy(u *admin.Upstream) string {
	load, agent := "-", "-"
	if u.Load > 0 {
		load = fmt.Sprintf("%.0f%%", u.Load*100)
	}
	if u.Agent != "" {
		agent = printable.Text(u.Agent)
	}
	if u.AgentReason != "" {
		agent += ": " + printable.Text(u.AgentReason)
	}
	return "\t" + load + "\t" + agent
}

// healthOf is what the list says of an upstream's health.
func healthOf(u *admin.Upstream) string {
	switch {
	case u.Health == upstream.Down:
	case u.Failing:
		return "failing"
	case u.Doubtful:
		return "doubtful"
	}
	return u.Health
}

// allNodes is in the place of a node in rows of sums.
const allNodes = "all"

// sumUpstreams makes rows of what all nodes have, one for each address and one for
// all of them.
func sumUpstreams(list []nodeUpstream) []nodeUpstream {
	const differs = "differs"
	sums := make(map[string]*nodeUpstream)
	total := nodeUpstream{allNodes, admin.Upstream{Address: "-", State: "-", Health: "-"}}
	for _, u := range list {
		sum, found := sums[u.Address]
		if !found {
			sum = &nodeUpstream{allNodes, admin.Upstream{Address: u.Address, State: u.State, Health: healthOf(&u.Upstream)}}
			sums[u.Address] = sum
		}
		if sum.State != u.State {
			sum.State = differs
		}
		if sum.Health != healthOf(&u.Upstream) {
			sum.Health = differs
		}
		for _, s := range []*nodeUpstream{sum, &total} {
			s.Tunnels += u.Tunnels
			s.Queued += u.Queued
			s.Handshakes += u.Handshakes
			s.HandshakesLimit += u.HandshakesLimit
		}
	}
	var rows []nodeUpstream
	for _, address := range slices.Sorted(maps.Keys(sums)) {
		rows = append(rows, *sums[address])
	}
	return append(rows, total)
}

func newTable(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
}

func inSeconds(n float64) time.Duration {
	return time.Duration(n * float64(time.Second))
}
