package cli

import (
	"errors"
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
	addFilterFlags(cmd)
	cmd.Flags().Bool("all", false, "All tunnels")
	cmd.Flags().String("expires", "", "When they expire, such as 1h or 2026-01-01T00:00:00Z")
	return runs(cmd, func(c *console) (int, error) {
		renewed, err := c.renew()
		if err != nil {
			return 0, err
		}
		text := fmt.Sprintf("%d tunnels expire later than before", renewed.Renewed)
		if renewed.Renewed == 1 {
			text = "1 tunnel expires later than before"
		}
		return caddy.ExitCodeSuccess, c.print(renewed, text)
	})
}

// renew does what the flags say.
func (c *console) renew() (renewed admin.RenewAnswer, err error) {
	if err := c.noArguments(); err != nil {
		return renewed, err
	}
	filter, all, at := c.filter(), c.flags.Bool("all"), c.flags.String("expires")
	if (len(filter) > 0) == all {
		return renewed, errors.New("say which tunnels to renew: --label, --upstream, --client or --handler, or --all")
	}
	if _, err := expiry.Parse(at, time.Now()); err != nil {
		return renewed, fmt.Errorf("--expires %q %w", at, err)
	}
	tunnels, err := admin.FilterOf(filter)
	if err != nil {
		return renewed, fmt.Errorf("--%w", err) // which begins with the name
	}
	err = c.ask(http.MethodPost, "tunnels/renew", admin.RenewRequest{Filter: *tunnels, All: all, Expires: admin.Time(at)}, &renewed)
	return renewed, err
}
