package cli

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

func addLabelFlag(cmd *cobra.Command) {
	cmd.Flags().StringArray("label", nil, "Tunnels with this label, such as user=alice; of several, those that have all")
}

// addLabels adds what the flags say about labels to a filter.
func (c *console) addLabels(filter url.Values) {
	if labels, err := c.flags.GetStringArray("label"); err == nil && len(labels) > 0 {
		filter["label"] = labels
	}
}

// labelsText is the labels of a tunnel as a table has them.
func labelsText(labels map[string]string) string {
	if len(labels) == 0 {
		return "-"
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, printable.Text(name+"="+labels[name]))
	}
	return strings.Join(all, " ")
}
