"""Deep belief networks in scikit-learn: a pipeline, a grid search, and the features of an RBM.

    python examples/sklearn_pipeline.py

Prints the test accuracy of a scaler and a DBNClassifier (about 0.97), the better of two dropout rates, and the accuracy
of a logistic regression on the features of an RBMTransformer (about 0.96).  Wants scikit-learn: modelpar[sklearn].
"""

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from modelpar.sklearn import DBNClassifier, RBMTransformer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)

model = make_pipeline(MinMaxScaler(), DBNClassifier(hidden_layer_sizes=(256, 256), random_state=0))
model.fit(X_train, y_train)
print(f"deep belief network: {model.score(X_test, y_test):.3f}")

quick = make_pipeline(MinMaxScaler(), DBNClassifier(hidden_layer_sizes=(64,), max_iter=10, random_state=0))
search = GridSearchCV(quick, {"dbnclassifier__dropout": [0.0, 0.3]}, cv=2).fit(X_train, y_train)
print(f"best dropout: {search.best_params_['dbnclassifier__dropout']}, accuracy {search.best_score_:.3f}")

features = make_pipeline(MinMaxScaler(), RBMTransformer(256, random_state=0), LogisticRegression(max_iter=1000))
features.fit(X_train, y_train)
print(f"logistic regression on the features of an RBM: {features.score(X_test, y_test):.3f}")
