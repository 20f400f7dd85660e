package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"

	"github.com/dustin/go-humanize"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

var errStopped = errors.New("nobody reads on")

// eachTunnel asks all nodes at once for the tunnels that match, and has do take them, one
// node's after the other's. Of each it holds no more than two pages at a time.
func (c *console) eachTunnel(filter url.Values, do func(*node, json.RawMessage) error) (failed []failure, err error) {
	pages := make(map[*node]chan []json.RawMessage, len(c.nodes))
	for _, n := range c.nodes {
		pages[n] = make(chan []json.RawMessage)
	}
	stop, asked := make(chan struct{}), make(chan []failure)
	go func() {
		asked <- askAll(c.nodes, func(n *node) (struct{}, error) {
			defer close(pages[n])
			return struct{}{}, n.eachPage(maps.Clone(filter), func(page []json.RawMessage) error {
				select {
				case pages[n] <- page:
					return nil
				case <-stop:
					return errStopped
				}
			})
		}).failed
	}()
	defer func() {
		close(stop)
		failed = <-asked
	}()
	for _, n := range c.nodes {
		for page := range pages[n] {
			for _, t := range page {
				if err := do(n, t); err != nil {
					return nil, err
				}
			}
		}
	}
	return nil, nil
}

// tunnelTable is a list of tunnels for people.
type tunnelTable struct {
	*console

	out   io.Writer
	total admin.Tunnel
	rows  int
}

func (c *console) listTunnels(filter url.Values) error {
	if c.json {
		return c.streamTunnels(filter)
	}
	w := newTable(c.out)
	table := &tunnelTable{console: c, out: w}
	if c.several() {
		_, _ = fmt.Fprint(w, "NODE\t") // Flush has the error
	}
	_, _ = fmt.Fprintln(w, "ID\tCLIENT\tPROTO\tUPSTREAM\tHANDLER\tAGE\tIDLE\tIN\tOUT\tMSGS IN\tMSGS OUT\tLABELS")
	failed, err := c.eachTunnel(filter, table.add)
	if err != nil {
		return err
	}
	failure := c.err(failed)
	if len(failed) == len(c.nodes) {
		return failure
	}
	if c.several() {
		t := &table.total
		_, _ = fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t-\t-\t-\t%s\t%s\t%d\t%d\t-\n", allNodes, countTunnels(table.rows),
			humanize.IBytes(t.BytesIn), humanize.IBytes(t.BytesOut), t.MessagesIn, t.MessagesOut)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return failure
}

// add writes a tunnel, and adds it to the sums.
func (l *tunnelTable) add(n *node, text json.RawMessage) error {
	var t admin.Tunnel
	if err := json.Unmarshal(text, &t); err != nil {
		return fmt.Errorf("reading a tunnel: %w", err)
	}
	orNone := func(text string) string { return printable.Text(cmp.Or(text, "-")) }
	l.rows++
	l.total.BytesIn += t.BytesIn
	l.total.BytesOut += t.BytesOut
	l.total.MessagesIn += t.MessagesIn
	l.total.MessagesOut += t.MessagesOut
	if l.several() {
		_, _ = fmt.Fprint(l.out, n.name+"\t")
	}
	_, err := fmt.Fprintf(l.out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n",
		printable.Text(t.ID), printable.Text(t.ClientIP), orNone(t.Protocol), printable.Text(t.Upstream), orNone(t.Handler),
		brief(inSeconds(t.Age)), brief(inSeconds(t.Idle)),
		humanize.IBytes(t.BytesIn), humanize.IBytes(t.BytesOut), t.MessagesIn, t.MessagesOut,
		labelsText(t.Labels))
	return err
}

// streamTunnels prints tunnels as one object, of which it holds a few pages at a
// time.
func (c *console) streamTunnels(filter url.Values) error {
	const start, between = `{"tunnels":[`, ",\n"
	before := start
	failed, err := c.eachTunnel(filter, func(n *node, text json.RawMessage) error {
		text, err := c.signed(n, text)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s%s", before, printable.Escape(text))
		before = between
		return err
	})
	if err != nil {
		return err
	}
	failure := c.err(failed)
	switch {
	case before == start && len(failed) == len(c.nodes), !c.several() && failure != nil:
		return failure
	case before == between:
		before = ""
	}
	end := []byte("]}")
	if failed := c.failures(failed); len(failed) > 0 {
		list, err := printable.JSON(failed)
		if err != nil {
			return err
		}
		end = fmt.Appendf(nil, `],"failed":%s}`, list)
	}
	if _, err = fmt.Fprintf(c.out, "%s%s\n", before, end); err != nil {
		return err
	}
	return failure
}

// signed adds the node, if there are several, to a tunnel, whose other fields stay
// as they are.
func (c *console) signed(n *node, tunnel json.RawMessage) (json.RawMessage, error) {
	if !c.several() {
		return tunnel, nil
	}
	name, err := json.Marshal(n.name)
	fields, isObject := bytes.CutPrefix(bytes.TrimSpace(tunnel), []byte("{"))
	if err != nil || !isObject {
		return nil, fmt.Errorf("%s lists a tunnel that is none", n.name)
	}
	comma := ","
	if bytes.HasPrefix(bytes.TrimSpace(fields), []byte("}")) {
		comma = ""
	}
	return fmt.Appendf(nil, `{"node":%s%s%s`, name, comma, fields), nil
}
