package server

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
)

// APIServer is Reviews by an API server; the two are methods of a clientset.
type APIServer struct {
	Authentication authenticationclient.TokenReviewsGetter
	Authorization  authorizationclient.SubjectAccessReviewsGetter
}

var _ Reviews = APIServer{}

// Token makes a TokenReview.
func (a APIServer) Token(ctx context.Context, token string) (authenticationv1.TokenReviewStatus, error) {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	answer, err := a.Authentication.TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.TokenReviewStatus{}, fmt.Errorf("asking the API server whose token it is: %w", err)
	}
	return answer.Status, nil
}

// Access makes a SubjectAccessReview.
func (a APIServer) Access(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	answer, err := a.Authorization.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, fmt.Errorf("asking the API server what user %q may do: %w", spec.User, err)
	}
	return answer.Status, nil
}
