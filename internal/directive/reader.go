// Package directive reads what the options of a directive in a Caddyfile consist of:
// values, addresses of upstreams, and what reverse_proxy has too, which its own parser
// reads. It finds the line of a mistake. Which option sets what it is told; it must not
// know the handler, and nothing of logs. A Reader belongs to one goroutine, and there
// are no locks.
package directive

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Syntax says which options a directive has. Add tells it each of them.
type Syntax struct {
	// Directive is its name.
	Directive string
	// Repeatable are the options that may be given several times and add up.
	Repeatable map[string]bool
	// Refused are options of reverse_proxy that it has not, with what to write instead.
	Refused map[string]string
	// Settings are what may follow the address of the option upstream.
	Settings []string
	// Renamed replaces the names in texts that only JSON has.
	Renamed *strings.Replacer

	// options are the paths in JSON that each option sets, and optionOf the reverse.
	options  map[string][]string
	optionOf map[string]string
}

// Add adds an option, which sets what paths in JSON mean, separated by spaces.
func (s *Syntax) Add(option, sets string) {
	if s.options == nil {
		s.options, s.optionOf = make(map[string][]string), make(map[string]string)
	}
	s.options[option] = strings.Fields(sets)
	for _, path := range s.options[option] {
		s.optionOf[path] = option
	}
}

// OptionOf returns the option that sets just what a path in JSON means.
func (s *Syntax) OptionOf(path string) (option string, ok bool) {
	option, ok = s.optionOf[path]
	return option, ok
}

// isOption reports whether the directive has an option of this name, or would have,
// as reverse_proxy has it.
func (s *Syntax) isOption(name string) bool {
	_, has := s.options[name]
	_, refused := s.Refused[name]
	return has || refused
}

// Reader reads one directive.
type Reader struct {
	*caddyfile.Dispenser

	syntax *Syntax
	shared shared
	// These say where everything is: the directive, its options in their order and by
	// their names, and elements of lists by their paths in JSON.
	directive       caddyfile.Token
	order           []caddyfile.Token
	given, elements map[string]caddyfile.Token
}

// NewReader returns a reader that stands on the directive's name, the next token.
func NewReader(d *caddyfile.Dispenser, s *Syntax) *Reader {
	d.Next()
	return &Reader{
		Dispenser: d, syntax: s, directive: d.Token(),
		given: make(map[string]caddyfile.Token), elements: make(map[string]caddyfile.Token),
	}
}

// Options reads the block. parse is called for each option, while the reader stands on
// its name, to read its arguments.
func (r *Reader) Options(parse func(option string) error) error {
	for r.NextBlock(0) {
		if err := r.option(r.Val(), parse); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) option(name string, parse func(string) error) error {
	if hint, ok := r.syntax.Refused[name]; ok {
		return r.Errf("%s is not an option of %s: %s", name, r.syntax.Directive, hint)
	}
	if strings.HasPrefix(name, "@") {
		return r.Errf("%s: %s has no response matchers; use the intercept directive", name, r.syntax.Directive)
	}
	if _, twice := r.given[name]; twice && !r.syntax.Repeatable[name] {
		return r.Errf("%s is given twice", name)
	}
	r.order, r.given[name] = append(r.order, r.Token()), r.Token()
	if _, ok := r.syntax.options[name]; !ok {
		return r.Errf("unrecognized option %s", name)
	}
	if err := parse(name); err != nil {
		return err
	}
	return r.surplus(name)
}

// surplus refuses what is left after an option's arguments.
func (r *Reader) surplus(name string) error {
	if r.NextArg() {
		return r.Errf("%s has too many arguments: %s", name, r.Val())
	}
	last := r.Token()
	if nesting := r.Nesting(); r.NextBlock(nesting) {
		return ErrorAt(last, "%s has no block", name)
	}
	return nil
}

// Given returns where an option is, if it has been given.
func (r *Reader) Given(option string) (at caddyfile.Token, ok bool) {
	at, ok = r.given[option]
	return at, ok
}

// First returns the first option that sets something at or below a path in JSON, if one
// has been given.
func (r *Reader) First(path string) (at caddyfile.Token, ok bool) {
	for _, at := range r.order {
		for _, set := range r.syntax.options[at.Text] {
			if set == path || strings.HasPrefix(set, path+".") {
				return at, true
			}
		}
	}
	return at, false
}

// Note remembers that the token at is the i-th element of a list.
func (r *Reader) Note(list string, i int, at caddyfile.Token) {
	r.elements[fmt.Sprintf("%s[%d]", list, i)] = at
}

// lastStep is the last step of a path in JSON.
var lastStep = regexp.MustCompile(`(\.[a-z_]+|\[[0-9]+\]|^[a-z_]+)$`)

// Mistake makes of an error that begins with a path in JSON one about an option and
// its line. An option that does not set this path, or is not given, is looked for one
// step up.
func (r *Reader) Mistake(err error) error {
	path, text, _ := strings.Cut(err.Error(), ": ")
	text = r.syntax.Renamed.Replace(text)
	at, isElement := r.elements[path]
	for set := path; set != ""; set = lastStep.ReplaceAllString(set, "") {
		option, ok := r.syntax.optionOf[set]
		switch given, isGiven := r.given[option]; {
		case !ok:
		case isElement:
			return ErrorAt(at, "%s %s", option, text)
		case isGiven && set == path:
			return ErrorAt(given, "%s %s", option, text)
		case isGiven:
			return ErrorAt(given, "%s: %s %s", option, path[len(set)+1:], text)
		}
	}
	return ErrorAt(r.directive, "%s: %s: %s", r.syntax.Directive, path, text)
}

// ErrorAt returns an error with the position of a token.
func ErrorAt(t caddyfile.Token, format string, args ...any) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.Errf(format, args...)
}
