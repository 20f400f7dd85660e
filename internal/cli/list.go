package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// watchInterval is how often watch looks.
const watchInterval = time.Second

// filterFlags are the flags that say which tunnels are meant, and the names of
// their values in the API.
var filterFlags = []string{"upstream", "client", "handler"}

func addFilterFlags(cmd *cobra.Command) {
	cmd.Flags().String("upstream", "", "Tunnels to this upstream, by its address")
	cmd.Flags().String("client", "", "Tunnels of clients with this IP address, or in this CIDR range")
	cmd.Flags().String("handler", "", "Tunnels of handlers with this name")
	addLabelFlag(cmd)
}

// filter returns what the flags say about the tunnels that are meant.
func (c *console) filter() url.Values {
	filter := make(url.Values)
	for _, name := range filterFlags {
		if value := c.flags.String(name); value != "" {
			filter.Set(name, value)
		}
	}
	c.addLabels(filter)
	return filter
}

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [--tunnels] [--upstream <address>] [--client <ip|cidr>] [--handler <name>] " +
			"[--label <name>=<value>...]",
		Short: "Lists upstreams, or tunnels",
		Long: `
Lists the upstreams with their states and how many tunnels they have.

With --tunnels, or a filter, it lists tunnels: all, or those that match every
filter. IN and OUT are seen from the client.
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
			if _, err := admin.FilterOf(filter); err != nil {
				return 0, fmt.Errorf("--%w", err) // which begins with the name
			}
			list = func() error { return c.listTunnels(filter) }
		}
		return caddy.ExitCodeSuccess, list()
	})
}

func (c *console) listUpstreams() error {
	list, err := c.upstreams()
	if err != nil {
		return err
	}
	return c.printUpstreams(list)
}

func (c *console) printUpstreams(list []admin.Upstream) error {
	if c.json {
		return c.printJSON(admin.UpstreamList{Upstreams: list})
	}
	return writeUpstreams(c.out, list, time.Now())
}

// writeUpstreams writes upstreams as a table.
func writeUpstreams(out io.Writer, list []admin.Upstream, now time.Time) error {
	w := newTable(out)
	_, _ = fmt.Fprintln(w, "ADDRESS\tSTATE\tHEALTH\tTUNNELS\tQUEUED\tSINCE\tBY\tEXPIRES") // Flush has the error
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
		health := u.Health
		if u.Failing && health != upstream.Down {
			health = "failing"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n",
			printable.Text(u.Address), printable.Text(u.State), printable.Text(health), u.Tunnels, u.Queued, since, by, expires)
	}
	return w.Flush()
}

func newTable(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
}

func (c *console) listTunnels(filter url.Values) error {
	if c.json {
		return c.streamTunnels(filter)
	}
	w := newTable(c.out)
	_, _ = fmt.Fprintln(w, "ID\tCLIENT\tUPSTREAM\tHANDLER\tAGE\tIDLE\tIN\tOUT\tMSGS IN\tMSGS OUT\tLABELS") // as above
	err := c.eachTunnel(filter, func(text json.RawMessage) error {
		var t admin.Tunnel
		if err := json.Unmarshal(text, &t); err != nil {
			return fmt.Errorf("reading a tunnel: %w", err)
		}
		handler := "-"
		if t.Handler != "" {
			handler = printable.Text(t.Handler)
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n",
			printable.Text(t.ID), printable.Text(t.ClientIP), printable.Text(t.Upstream), handler,
			brief(inSeconds(t.Age)), brief(inSeconds(t.Idle)),
			humanize.IBytes(t.BytesIn), humanize.IBytes(t.BytesOut), t.MessagesIn, t.MessagesOut,
			labelsText(t.Labels))
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

func inSeconds(n float64) time.Duration {
	return time.Duration(n * float64(time.Second))
}

// streamTunnels prints tunnels as one object, of which it holds a page at a
// time.
func (c *console) streamTunnels(filter url.Values) error {
	const start, between = `{"tunnels":[`, ",\n"
	before := start
	err := c.eachTunnel(filter, func(text json.RawMessage) error {
		_, err := fmt.Fprintf(c.out, "%s%s", before, printable.Escape(text))
		before = between
		return err
	})
	if err != nil {
		return err
	}
	if before == between {
		before = ""
	}
	_, err = fmt.Fprintln(c.out, before+"]}")
	return err
}

func watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Lists upstreams again and again",
		Long: `
Lists the upstreams until it is interrupted: every second on a terminal, else
whenever something has changed. With --json each list is a line.
`,
	}
	return runs(cmd, func(c *console) (int, error) {
		if err := c.noArguments(); err != nil {
			return 0, err
		}
		return 0, c.watch()
	})
}

// watch goes on until the list cannot be had or printed.
func (c *console) watch() error {
	redrawn := c.terminal && !c.json
	var last []admin.Upstream
	for first := true; ; first = false {
		list, err := c.upstreamsThroughReload()
		if err != nil {
			return err
		}
		if first || redrawn || !slices.EqualFunc(list, last, sameUpstream) {
			last = list
			if err := c.printAgain(list, first, redrawn); err != nil {
				return err
			}
		}
		time.Sleep(watchInterval)
	}
}

// sameUpstream reports whether nothing has changed that is worth telling.
func sameUpstream(a, b admin.Upstream) bool {
	a.Checked, a.HealthError = b.Checked, b.HealthError
	return a == b
}

// printAgain prints the list in one piece: in place of the last one if it is
// redrawn, else below.
func (c *console) printAgain(list []admin.Upstream, first, redrawn bool) error {
	var text bytes.Buffer
	switch {
	case redrawn:
		text.WriteString("\x1b[H\x1b[2J") // from the top of an empty screen
	case !first && !c.json:
		text.WriteString("\n")
	}
	page := *c
	page.out = &text
	if err := page.printUpstreams(list); err != nil {
		return err
	}
	_, err := c.out.Write(text.Bytes())
	return err
}
