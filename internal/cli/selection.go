package cli

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

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

// filterOf checks what the flags say.
func filterOf(filter url.Values) (*admin.Filter, error) {
	f, err := admin.FilterOf(filter)
	if err != nil {
		return nil, fmt.Errorf("--%w", err) // which begins with the name
	}
	return f, nil
}

// addSelectionFlags adds those by which a command that changes something is told of
// which tunnels.
func addSelectionFlags(cmd *cobra.Command) {
	addFilterFlags(cmd)
	cmd.Flags().Bool("all", false, "All tunnels")
}

// selection returns what the flags say, or nothing if there are ids as arguments. To
// give none of these, or two, is an error, which begins with what was to be done.
func (c *console) selection(todo string) (*admin.Selection, error) {
	filter, all, ids := c.filter(), c.flags.Bool("all"), c.flags.Args()
	given := 0
	for _, is := range []bool{len(filter) > 0, all, len(ids) > 0} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("say which tunnels to %s--upstream, --client, --handler or --label, or --all", todo)
	case len(ids) > 0:
		return nil, nil
	}
	tunnels, err := filterOf(filter)
	if err != nil {
		return nil, err
	}
	return &admin.Selection{Filter: *tunnels, All: all}, nil
}
