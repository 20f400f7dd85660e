package cli

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// watchInterval is how often watch looks.
const watchInterval = time.Second

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

// watch goes on until no list can be had, or printed.
func (c *console) watch() error {
	for _, n := range c.nodes {
		n.away = c.several() // nobody waits for one that may never have been there
	}
	redrawn := c.terminal && !c.json
	var last upstreamList
	for first := true; ; first = false {
		r := askAll(c.nodes, (*node).upstreamsThroughReload)
		if len(r.said) == 0 {
			return c.err(r.failed)
		}
		if list := c.upstreamList(r); first || redrawn || !sameList(list, last) {
			last = list
			if err := c.printAgain(list, first, redrawn); err != nil {
				return err
			}
		}
		time.Sleep(watchInterval)
	}
}

// sameList reports whether nothing has changed that is worth telling.
func sameList(a, b upstreamList) bool {
	return slices.EqualFunc(a.Upstreams, b.Upstreams, sameUpstream) &&
		slices.EqualFunc(a.Failed, b.Failed, func(a, b failure) bool { return a.Node == b.Node })
}

func sameUpstream(a, b nodeUpstream) bool {
	a.Checked, a.HealthError, a.Load = b.Checked, b.HealthError, b.Load
	a.Handshakes, a.HandshakesLimit = b.Handshakes, b.HandshakesLimit
	return a == b
}

// printAgain prints the list in one piece: in place of the last one if it is
// redrawn, else below.
func (c *console) printAgain(list upstreamList, first, redrawn bool) error {
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
	if !c.json {
		for _, f := range list.Failed {
			_, _ = fmt.Fprintf(&text, "%s: %s\n", f.Node, f.Error)
		}
	}
	_, err := c.out.Write(text.Bytes())
	return err
}
