package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

func closeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "close <id...> | [--upstream <address>] [--client <ip|cidr>] [--handler <name>] [--label <name>=<value>...] | --all " +
			"[--code <n>] [--reason <text>] [--period <duration>]",
		Short: "Closes tunnels",
		Long: `
Closes the tunnels with these ids, or those that match every filter, or all of
them: --label user=alice is a ban, or a logout. Their clients are sent a Close frame with the code (1001 by default) and
the reason.

Those that match are closed one after another over --period, the longest idle
ones first. Without it, each takes a millisecond. The command does not wait for
that.
`,
	}
	addFilterFlags(cmd)
	cmd.Flags().Bool("all", false, "All tunnels")
	cmd.Flags().Int("code", 0, "Status of the Close frames, such as 1001, 1012, 1013 or one from 3000 to 4999")
	cmd.Flags().String("reason", "", "Text of the Close frames, up to 123 bytes")
	cmd.Flags().String("period", "", "Time over which the tunnels are closed")
	return runs(cmd, func(c *console) (int, error) {
		closing, err := c.close()
		if err != nil {
			return 0, err
		}
		return caddy.ExitCodeSuccess, c.print(closing, sayClosing(closing))
	})
}

// sayClosing says for people what is happening.
func sayClosing(a admin.CloseAnswer) string {
	text := fmt.Sprintf("closing %d tunnels", a.Closing)
	if a.Closing == 1 {
		text = "closing 1 tunnel"
	}
	if a.Period > 0 {
		text += " over " + inSeconds(a.Period).String()
	}
	return text
}

// close does what the flags say.
func (c *console) close() (closing admin.CloseAnswer, err error) {
	filter, all, ids := c.filter(), c.flags.Bool("all"), c.flags.Args()
	wanted := 0
	for _, given := range []bool{len(filter) > 0, all, len(ids) > 0} {
		if given {
			wanted++
		}
	}
	switch {
	case wanted != 1:
		return closing, errors.New("say which tunnels to close: their ids, or --upstream, --client, --handler or --label, or --all")
	case len(ids) > 0 && c.flags.Changed("period"):
		return closing, errors.New("--period is for filters; tunnels with these ids are closed at once")
	}
	if err := c.checkCloseFrame(); err != nil {
		return closing, err
	}
	if len(ids) > 0 {
		return c.closeEach(ids)
	}
	tunnels, err := admin.FilterOf(filter)
	if err != nil {
		return closing, fmt.Errorf("--%w", err) // which begins with the name
	}
	request := admin.CloseRequest{Filter: *tunnels, All: all, Reason: c.flags.String("reason")}
	if c.flags.Changed("code") {
		code := c.flags.Int("code")
		request.Code = &code
	}
	if request.Period, err = c.duration("period", admin.LongestPeriod); err != nil {
		return closing, err
	}
	err = c.ask(http.MethodPost, "tunnels/close", request, &closing)
	return closing, err
}

// checkCloseFrame checks what clients are to be told.
func (c *console) checkCloseFrame() error {
	if problem := frame.CloseReasonProblem(c.flags.String("reason")); problem != "" {
		return fmt.Errorf("--reason: %s", problem)
	}
	if !c.flags.Changed("code") {
		return nil
	}
	if problem := frame.CloseCodeProblem(c.flags.Int("code")); problem != "" {
		return fmt.Errorf("--code: %s", problem)
	}
	return nil
}

// closeEach closes tunnels by their ids, also if some of them are not there.
func (c *console) closeEach(ids []string) (closing admin.CloseAnswer, err error) {
	query := make(url.Values)
	if c.flags.Changed("code") {
		query.Set("code", strconv.Itoa(c.flags.Int("code")))
	}
	if reason := c.flags.String("reason"); reason != "" {
		query.Set("reason", reason)
	}
	var problems []error
	for _, id := range ids {
		var answer admin.CloseAnswer
		err := c.ask(http.MethodDelete, "tunnels/"+url.PathEscape(id)+"?"+query.Encode(), nil, &answer)
		if errors.Is(err, errUnreachable) {
			return closing, err
		}
		if err != nil {
			problems = append(problems, err)
		}
		closing.Closing += answer.Closing
	}
	if len(problems) > 0 && closing.Closing > 0 {
		problems = append(problems, errors.New("but "+sayClosing(closing)))
	}
	return closing, errors.Join(problems...)
}
