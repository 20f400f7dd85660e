// Package cli is the two commands: `caddy websocket-proxy`, which runs a Caddy that
// proxies what its flags say, and `caddy websockets`, by which operators see and close
// the tunnels of a running Caddy and take upstreams out of service. It knows the admin
// API and its types, how a console shows them, and the Caddyfile that a person would
// write; nothing of the process that it asks, which is another one. It has no lock.
package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// exitNotStored is the exit code of a command that has done what it was asked
// to, but not for every instance and not for after a restart.
const exitNotStored = 2

// Command returns `caddy websockets`.
func Command() caddycmd.Command {
	return caddycmd.Command{
		Name:  "websockets",
		Usage: "<command>",
		Short: "Shows and operates the WebSocket tunnels of a running Caddy",
		Long: `
Shows upstreams and tunnels of a running Caddy, closes tunnels, and takes
upstreams out of service. It asks Caddy's admin endpoint, which has to be on and
reachable; --address says where that is, or --config names the configuration
that says so.

With several of them it asks all at once, and says which node has what. One that
does not answer does not keep the others from being shown; the exit code is 1.

An address with https:// is that of Caddy's remote admin endpoint, which wants a
certificate (--cert, --key); its own is checked against the system's authorities,
or --cacert.

Exit codes: 0, done; 1, failed, also at one of several; 2, done, but the state of
the upstream could not be stored, so it holds for those Caddys that were asked,
until they end.
`,
		CobraFunc: func(cmd *cobra.Command) {
			addNodeFlags(cmd)
			cmd.PersistentFlags().Bool("json", false, "Print JSON")
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return fmt.Errorf("%q is not one of its commands; see %s --help", args[0], cmd.CommandPath())
				}
				return cmd.Help()
			}
			cmd.AddCommand(listCommand(), watchCommand(), closeCommand(), renewCommand(),
				stateCommand(upstream.Drain), stateCommand(upstream.Maint), stateCommand(upstream.Evict),
				stateCommand(upstream.Ready))
		},
	}
}

// console is one run of a command: what it was asked, and where it prints.
type console struct {
	flags caddycmd.Flags
	out   io.Writer
	// nodes are the Caddys that are asked.
	nodes []*node
	// json tells to print for programs, and terminal that out is one.
	json, terminal bool
}

// runs has cmd run a function, whose results are what went wrong and, if nothing
// did, the process's exit code.
func runs(cmd *cobra.Command, run func(*console) (code int, err error)) *cobra.Command {
	wrapped := caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		nodes, err := findNodes(flags)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		code, err := run(&console{
			flags: flags, out: os.Stdout, nodes: nodes,
			json: flags.Bool("json"), terminal: isTerminal(os.Stdout),
		})
		if err != nil {
			code = caddy.ExitCodeFailedStartup
		}
		return code, err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // those from here on are logged, and a code alone is no message
		return wrapped(cmd, args)
	}
	return cmd
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// noArguments checks that a command was given flags only.
func (c *console) noArguments() error {
	if args := c.flags.Args(); len(args) > 0 {
		return fmt.Errorf("this command takes no arguments, such as %q", args[0])
	}
	return nil
}

// duration reads a flag in seconds. It returns nil if the flag is not given.
func (c *console) duration(name string, longest time.Duration) (*float64, error) {
	if !c.flags.Changed(name) {
		return nil, nil
	}
	d, err := caddy.ParseDuration(c.flags.String(name))
	if err != nil || d < 0 {
		return nil, fmt.Errorf("--%s is a duration, such as 30s or 2h, not %q", name, c.flags.String(name))
	}
	if d > longest {
		return nil, fmt.Errorf("--%s is at most %.0fh, not %s", name, longest.Hours(), c.flags.String(name))
	}
	s := d.Seconds()
	return &s, nil
}

// print prints v for programs, or else text for people.
func (c *console) print(v any, text string) error {
	if c.json {
		return c.printJSON(v)
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

// printJSON prints v in a line.
func (c *console) printJSON(v any) error {
	text, err := printable.JSON(v)
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(text, '\n'))
	return err
}

// brief is a duration in two units at most.
func brief(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(0, d).Round(time.Second); {
	case d < time.Hour:
		return d.String()
	case d < 2*day:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
}
