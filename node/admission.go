package node

import (
	"github.com/shimd/shimd/node/plan"
)

// admit says why this node does not take a pod; nil: it does.
func (a *Agent) admit(d desired) *plan.Verdict {
	return nil
}
