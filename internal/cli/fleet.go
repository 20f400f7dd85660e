package cli

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// said is what a node has answered.
type said[T any] struct {
	node   *node
	answer T
}

// failure is a node that could not do what it was asked.
type failure struct {
	// Node is its address, and Error what was wrong.
	Node  string `json:"node"`
	Error string `json:"error"`

	err error
}

// replies are what has become of a question to all nodes, in the nodes' order.
type replies[T any] struct {
	said   []said[T]
	failed []failure
}

// askAll has do ask each node, all at once, and waits for every answer.
func askAll[T any](nodes []*node, do func(*node) (T, error)) *replies[T] {
	answers, errs := make([]T, len(nodes)), make([]error, len(nodes))
	var asking sync.WaitGroup
	for i, n := range nodes {
		asking.Go(func() { answers[i], errs[i] = do(n) })
	}
	asking.Wait()
	r := new(replies[T])
	for i, n := range nodes {
		r.add(n, answers[i], errs[i])
	}
	return r
}

func (r *replies[T]) add(n *node, answer T, err error) {
	if err != nil {
		r.failed = append(r.failed, failureOf(n, err))
		return
	}
	r.said = append(r.said, said[T]{n, answer})
}

func failureOf(n *node, err error) failure {
	text := err.Error()
	if away, ok := errors.AsType[*unreachableError](err); ok {
		text = "did not answer: " + away.cause
	}
	return failure{Node: n.name, Error: text, err: err}
}

// err makes one error of what was wrong at nodes. It is nil if nothing was.
func (c *console) err(failed []failure) error {
	switch {
	case len(failed) == 0:
		return nil
	case !c.several():
		return failed[0].err
	}
	texts := make([]string, len(failed))
	for i, f := range failed {
		texts[i] = f.Node + ": " + f.Error
	}
	return fmt.Errorf("%d of %d nodes failed: %s", len(failed), len(c.nodes), strings.Join(texts, "; "))
}

// several reports whether more than one node is asked, so that what is printed has to
// say of which it is.
func (c *console) several() bool { return len(c.nodes) > 1 }

// nameOf is the name of a node where one has to be said, else empty.
func (c *console) nameOf(n *node) string {
	if c.several() {
		return n.name
	}
	return ""
}

// at says where something was wrong, if there are several nodes.
func (c *console) at(n *node, err error) error {
	if c.several() {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return err
}

// failures are those that are printed for programs, of several nodes.
func (c *console) failures(failed []failure) []failure {
	if c.several() {
		return failed
	}
	return nil
}

// atNodes says for people at how many nodes something is so, if there are several.
func (c *console) atNodes(n int) string {
	switch {
	case !c.several():
		return ""
	case n == 1:
		return " at 1 node"
	}
	return fmt.Sprintf(" at %d nodes", n)
}
