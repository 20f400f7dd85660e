package cli

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
)

func renewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "renew [--label <name>=<value>...] [--upstream <address>] [--client <ip|cidr>] [--handler <name>] | --all " +
			"--expires <time>",
		Short: "Has tunnels expire later",
		Long: `
Has the tunnels that match every filter, or all of them, expire at another time,
if that is later than before: seconds since 1970, a time as in RFC 3339, or a
duration from now on. Tunnels that do not expire stay so.
`,
	}
	addSelectionFlags(cmd)
	cmd.Flags().String("expires", "", "When they expire, such as 1h or 2026-01-01T00:00:00Z")
	return runs(cmd, func(c *console) (int, error) { return caddy.ExitCodeSuccess, c.renew() })
}

// renewals are the tunnels that expire later at all nodes.
type renewals struct {
	admin.RenewAnswer
	// Failed are the nodes that are missing.
	Failed []failure `json:"failed,omitempty"`
}

// renew does what the flags say, at all nodes: that of the client's tunnels is not known.
func (c *console) renew() error {
	if err := c.noArguments(); err != nil {
		return err
	}
	tunnels, err := c.selection("renew: ")
	if err != nil {
		return err
	}
	at := c.flags.String("expires")
	if _, err := expiry.Parse(at, time.Now()); err != nil {
		return fmt.Errorf("--expires %q %w", at, err)
	}
	request := admin.RenewRequest{Selection: *tunnels, Expires: admin.Time(at)}
	r := askAll(c.nodes, func(n *node) (renewed admin.RenewAnswer, err error) {
		err = n.ask(http.MethodPost, "tunnels/renew", request, &renewed)
		return renewed, err
	})
	if len(r.said) > 0 {
		sum := renewals{Failed: c.failures(r.failed)}
		for _, of := range r.said {
			sum.Renewed += of.answer.Renewed
		}
		if err := c.print(sum, "renewed "+countTunnels(sum.Renewed)); err != nil {
			return err
		}
	}
	return c.err(r.failed)
}
