package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

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
	addSelectionFlags(cmd)
	cmd.Flags().Int("code", 0, "Status of the Close frames, such as 1001, 1012, 1013 or one from 3000 to 4999")
	cmd.Flags().String("reason", "", "Text of the Close frames, up to 123 bytes")
	cmd.Flags().String("period", "", "Time over which the tunnels are closed")
	return runs(cmd, func(c *console) (int, error) { return caddy.ExitCodeSuccess, c.close() })
}

// sayClosing says for people what is happening.
func sayClosing(a admin.CloseAnswer) string {
	text := "closing " + countTunnels(a.Closing)
	if a.Period > 0 {
		text += " over " + inSeconds(a.Period).String()
	}
	return text
}

func countTunnels(n int) string {
	if n == 1 {
		return "1 tunnel"
	}
	return strconv.Itoa(n) + " tunnels"
}

// close does what the flags say.
func (c *console) close() error {
	tunnels, err := c.selection("close: their ids, or ")
	if err != nil {
		return err
	}
	ids := c.flags.Args()
	if len(ids) > 0 && c.flags.Changed("period") {
		return errors.New("--period is for filters; tunnels with these ids are closed at once")
	}
	if err := c.checkCloseFrame(); err != nil {
		return err
	}
	if len(ids) > 0 {
		return c.closeEach(ids)
	}
	request := admin.CloseRequest{Selection: *tunnels, Reason: c.flags.String("reason")}
	if c.flags.Changed("code") {
		code := c.flags.Int("code")
		request.Code = &code
	}
	if request.Period, err = c.duration("period", admin.LongestPeriod); err != nil {
		return err
	}
	r := askAll(c.nodes, func(n *node) (closing admin.CloseAnswer, err error) {
		err = n.ask(http.MethodPost, "tunnels/close", request, &closing)
		return closing, err
	})
	if len(r.said) > 0 {
		if err := c.printClosing(r); err != nil {
			return err
		}
	}
	return c.err(r.failed)
}

// closings are the tunnels that are being closed at all nodes.
type closings struct {
	admin.CloseAnswer
	// Nodes are those that close some, or none, if several are asked.
	Nodes []nodeClosing `json:"nodes,omitempty"`
	// Failed are the nodes that are missing.
	Failed []failure `json:"failed,omitempty"`
}

type nodeClosing struct {
	Node string `json:"node"`
	admin.CloseAnswer
}

// printClosing prints what is being closed, and where.
func (c *console) printClosing(r *replies[admin.CloseAnswer]) error {
	sum := closings{Failed: c.failures(r.failed)}
	var at []string
	for _, of := range r.said {
		sum.Closing += of.answer.Closing
		sum.Period = max(sum.Period, of.answer.Period)
		if c.several() {
			sum.Nodes = append(sum.Nodes, nodeClosing{of.node.name, of.answer})
			at = append(at, fmt.Sprintf("%d at %s", of.answer.Closing, of.node.name))
		}
	}
	text := sayClosing(sum.CloseAnswer)
	if len(at) > 0 {
		text += ": " + strings.Join(at, ", ")
	}
	return c.print(sum, text)
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

// closedIDs is what has become of ids at a node.
type closedIDs struct {
	closing  int
	problems map[string]error // by id
}

// closeEach closes tunnels by their ids, also if some of them are not there. It is
// enough if one node knows them.
func (c *console) closeEach(ids []string) error {
	r := askAll(c.nodes, func(n *node) (closedIDs, error) { return c.closeAt(n, ids) })
	sum := replies[admin.CloseAnswer]{failed: r.failed}
	total := admin.CloseAnswer{}
	for _, of := range r.said {
		sum.add(of.node, admin.CloseAnswer{Closing: of.answer.closing}, nil)
		total.Closing += of.answer.closing
	}
	var problems []error
	for _, id := range ids {
		problems = append(problems, problemsOf(id, r.said)...)
	}
	if err := c.err(r.failed); err != nil {
		problems = append(problems, err)
	}
	if c.several() && total.Closing > 0 || len(problems) == 0 {
		if err := c.printClosing(&sum); err != nil {
			return err
		}
	} else if total.Closing > 0 {
		problems = append(problems, errors.New("but "+sayClosing(total)))
	}
	return errors.Join(problems...)
}

// problemsOf returns what was wrong with an id: that nodes do not know it only if
// none does.
func problemsOf(id string, at []said[closedIDs]) (problems []error) {
	var unknown error
	for _, of := range at {
		switch err := of.answer.problems[id]; {
		case err == nil:
			return nil
		case isUnknown(err):
			unknown = err
		default:
			problems = append(problems, err)
		}
	}
	if len(problems) == 0 && unknown != nil {
		problems = append(problems, unknown)
	}
	return problems
}

// closeAt closes those tunnels that a node has.
func (c *console) closeAt(n *node, ids []string) (closed closedIDs, err error) {
	query := make(url.Values)
	if c.flags.Changed("code") {
		query.Set("code", strconv.Itoa(c.flags.Int("code")))
	}
	if reason := c.flags.String("reason"); reason != "" {
		query.Set("reason", reason)
	}
	closed.problems = make(map[string]error)
	for _, id := range ids {
		var answer admin.CloseAnswer
		err := n.ask(http.MethodDelete, "tunnels/"+url.PathEscape(id)+"?"+query.Encode(), nil, &answer)
		if errors.Is(err, errUnreachable) {
			return closed, err
		}
		if err != nil {
			closed.problems[id] = err
		}
		closed.closing += answer.Closing
	}
	return closed, nil
}
