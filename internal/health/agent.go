package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Answer is what an agent has said: a small server beside an upstream, which answers each
// connection with one line about it. That is HAProxy's agent-check, and its source is the
// specification.
type Answer struct {
	upstream.Word

	// Problem is what was odd about it, to be shown: unknown words, and values that no
	// upstream can have.
	Problem string
}

const (
	// longestAnswer is how much is read of an answer at most, which is HAProxy's
	// tune.bufsize.
	longestAnswer = 16 << 10
	// longestReason bounds how much of an agent's own text is kept.
	longestReason = 200
)

// errIncomplete is about an answer that does not count.
var errIncomplete = errors.New("the answer is no line: it has no CR or LF")

// Ask asks an agent.
func (p *Probe) Ask(ctx context.Context) (a Answer, err error) {
	err = p.within(ctx, func(ctx context.Context) error {
		a, err = p.ask(ctx)
		return err
	})
	return a, err
}

// ask connects, sends what the agent is to get, and reads one line. Whatever the agent
// does beyond that is not looked at.
func (p *Probe) ask(ctx context.Context) (Answer, error) {
	conn, closeConn, err := p.dial(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer closeConn()
	p.doing = "waiting for the answer"
	if _, err := io.WriteString(conn, p.Send); err != nil {
		return Answer{}, fmt.Errorf("sending: %w", err)
	}
	line, err := readAnswer(conn)
	if err != nil {
		return Answer{}, err
	}
	return ParseAnswer(line), nil
}

// readAnswer reads up to the first CR or LF.
func readAnswer(r io.Reader) (line string, err error) {
	buf := make([]byte, 0, 512)
	for {
		n, err := r.Read(buf[len(buf):min(cap(buf), longestAnswer)])
		before := len(buf)
		buf = buf[:before+n]
		if end := bytes.IndexAny(buf[before:], "\r\n\x00"); end >= 0 {
			if buf[before+end] == 0 {
				return "", errIncomplete // for HAProxy, this is the end of what it has got
			}
			return string(buf[:before+end]), nil
		}
		switch {
		case len(buf) == longestAnswer:
			return "", errIncomplete
		case err == io.EOF && len(buf) == 0:
			return "", fmt.Errorf("reading the answer: %w", err)
		case err == io.EOF:
			return "", errIncomplete
		case err != nil:
			return "", fmt.Errorf("reading the answer: %w", err)
		case len(buf) == cap(buf):
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
	}
}

// ParseAnswer reads the line of an agent, without its end. Words are separated by blanks,
// tabs or commas; of several of a kind the last one counts, also if it is wrong.
func ParseAnswer(line string) (a Answer) {
	var weight, most, reason string
	var odd oddities
	isSeparator := func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }
	for {
		line = strings.TrimLeftFunc(line, isSeparator)
		if line == "" {
			break
		}
		if rest, is := strings.CutPrefix(line, "#"); is {
			reason = strings.TrimLeft(rest, " \t")
			break
		}
		end := strings.IndexFunc(line, isSeparator)
		if end < 0 {
			end = len(line)
		}
		word := line[:end]
		line = line[end:]
		switch lower := strings.Map(toLower, word); {
		case lower == upstream.Up, lower == upstream.Down, lower == "fail", lower == "stopped":
			a.Health = lower
		case lower == upstream.Ready, lower == upstream.Drain, lower == upstream.Maint:
			a.State = lower
		case isDigit(word[0]) && strings.Contains(word, "%"):
			weight = word
		case strings.HasPrefix(lower, maxconn):
			most = word
		default:
			odd.add("unknown word", word)
		}
	}
	a.Weight = parseWeight(weight, &odd)
	a.Most = parseMost(most, &odd)
	if a.Health != "" {
		a.Reason = printable.Cut(reason, longestReason)
	}
	a.Problem = odd.String()
	return a
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// toLower is for ASCII only: Unicode has further letters of which an i may be made.
func toLower(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

// highestPercentage is what HAProxy takes higher ones for: 256 times a weight of 1.
const highestPercentage = 25600

// parseWeight reads a percentage.
func parseWeight(word string, odd *oddities) upstream.Amount {
	if word == "" {
		return upstream.Amount{}
	}
	digits, isLast := strings.CutSuffix(word, "%")
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		n = highestPercentage // there is no sign
	case err != nil, !isLast:
		odd.add("no weight", word)
		return upstream.Amount{}
	}
	return upstream.Amount{Said: true, N: int(min(n, highestPercentage))}
}

const (
	maxconn = "maxconn:"
	// mostMaxconn is far from any number of tunnels, and from overflows.
	mostMaxconn = 1 << 30
)

// parseMost reads how many tunnels there may be.
func parseMost(word string, odd *oddities) upstream.Amount {
	if word == "" {
		return upstream.Amount{}
	}
	n, err := strconv.ParseInt(word[len(maxconn):], 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || n < 0 {
		odd.add("no maxconn", word)
		return upstream.Amount{}
	}
	return upstream.Amount{Said: true, N: int(min(n, mostMaxconn))}
}

// oddities are what is wrong with an answer: the first, and how many more.
type oddities struct {
	first string
	more  int
}

// longestOddity bounds how much is shown of a word.
const longestOddity = 64

func (o *oddities) add(what, word string) {
	if o.first != "" {
		o.more++
		return
	}
	o.first = what + " " + strconv.Quote(printable.Cut(word, longestOddity))
}

func (o *oddities) String() string {
	if o.more == 0 {
		return o.first
	}
	return fmt.Sprintf("%s, and %d more", o.first, o.more)
}
